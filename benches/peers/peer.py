"""What the peers share: their arguments, and how they tell the bench where they are.

The bench reads `ready` on standard output once a peer has started up and is about to read the topic, and `done {…}` once the
last record is in the table; at both it takes the processor time and the memory of the process and its children. A peer then
waits until its standard input ends, so that there is something to take them from.
"""
import argparse, json, sys


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--bootstrap", required=True)
    p.add_argument("--topic", required=True)
    p.add_argument("--warm-up", help="a topic to run in on, for programs that compile while they run")
    p.add_argument("--records", type=int, required=True, help="how many the topic has")
    p.add_argument("--folder", required=True, help="the table and all else that is written")
    p.add_argument("--columns", required=True, help="JSON: the columns that come out of an event, and from where")
    a = p.parse_args()
    with open(a.columns, encoding="utf-8") as file:
        a.columns = json.load(file)
    return a


def ready():
    print("ready", flush=True)


def done(detail):
    print("done", json.dumps(detail), flush=True)
    sys.stdin.read()
