"""Writes `schemas/avro/fixtures.json`: the schemas' fixtures in Avro, as fastavro writes them by the published schema.

avro.py SCHEMAS_FOLDER
"""

import datetime
import io
import json
import pathlib
import sys

import fastavro

folder = pathlib.Path(sys.argv[1])
schema = json.loads((folder / "avro" / "event.v1.avsc").read_text())
parsed = fastavro.parse_schema(schema)
fields = {field["name"]: field["type"] for field in schema["fields"]}
records = {branch["name"]: branch for branch in fields["data"] if isinstance(branch, dict) and "name" in branch}


def text_or(value):
    """Decimals are texts."""
    return json.dumps(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def data(event):
    words = event["type"].removeprefix("dev.daybook.").removesuffix(".v1").replace("_", ".").split(".")
    record = records["".join(word.capitalize() for word in words) + "V1"]
    values = {}
    for field in record["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        value = event["data"].get(field["name"])
        values[field["name"]] = text_or(value) if "string" in kinds else value
    return (f"{schema['namespace']}.{record['name']}", values)


fixtures = {}
for path in sorted((folder / "fixtures").glob("*.v1.json")):
    event = json.loads(path.read_text())
    value = {name: event.get(name) for name in fields if name not in ("ext", "data")}
    for name in ("time", "senttime"):
        if value[name]:
            value[name] = datetime.datetime.fromisoformat(value[name])
    known = set(fields) | {"specversion", "datacontenttype"}
    value["ext"] = {name: event[name] for name in sorted(event) if name not in known}
    value["data"] = data(event)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed, value)
    fixtures[event["id"]] = out.getvalue().hex()
(folder / "avro" / "fixtures.json").write_text(json.dumps(fixtures, indent=2) + "\n")
