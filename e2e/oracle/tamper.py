"""Changes an entry of the audit log in an SQLite directory, as someone with the file could: tamper.py FILE ORG NUMBER"""

import sqlite3
import sys

file, org, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
with sqlite3.connect(file) as database:
    changed = database.execute(
        "UPDATE audit SET detail = replace(detail, 'agreed', 'forced') WHERE org_id = ? AND number = ?", (org, number)
    ).rowcount
assert changed == 1, "there is no such entry"
print("{}")
