"""Runs scim2-tester against a SCIM server; prints how many checks ended how, and what is wrong.

scim_tester.py URL; the key is in SCIM_KEY
"""

import collections
import json
import os
import sys

import httpx2
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server

GOOD = {Status.SUCCESS, Status.COMPLIANT, Status.ACCEPTABLE, Status.SKIPPED}

headers = {"Authorization": f"Bearer {os.environ['SCIM_KEY']}"}
with httpx2.Client(base_url=sys.argv[1], headers=headers, timeout=30) as http:
    results = check_server(SyncSCIMClient(http))

counts = collections.Counter(result.status.name for result in results)
bad = [f"{result.status.name} {result.title} {result.resource_type}: {result.reason}" for result in results if result.status not in GOOD]
print(json.dumps({"counts": counts, "bad": bad}))
