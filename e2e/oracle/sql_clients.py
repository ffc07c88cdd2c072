"""The same statements by psql, psycopg, SQLAlchemy, JDBC and ADBC, and what each of them alone can do.

    sql_clients.py HOST PORT FLIGHT_PORT KEY ANALYST_KEY JDBC_LIBS

Prints {"statements": N, "differences": [...], "checks": {name: ok or what went wrong}} as JSON.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import adbc_driver_flightsql.dbapi as flight
import psycopg
import sqlalchemy as sa

HOST, PORT, FLIGHT_PORT, KEY, ANALYST_KEY, JDBC_LIBS = sys.argv[1:7]
STATEMENTS = [line for line in Path(__file__).with_name("analyst.sql").read_text().splitlines() if line.strip()]
# What is PostgreSQL's alone.
POSTGRESQL = ("pg_catalog", "version", "SHOW ", "current_")
MARK = "=next="


def text(value):
    """A value as all clients can print it."""
    return "" if value is None else str(value)


def psql(*arguments, script=None):
    environment = {**os.environ, "PGHOST": HOST, "PGPORT": PORT, "PGUSER": "analyst", "PGPASSWORD": KEY, "PGDATABASE": "daybook"}
    command = ["psql", "-X", "-v", "ON_ERROR_STOP=1", *arguments]
    done = subprocess.run(command, input=script, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"psql {arguments}: {done.stderr}")
    return done.stdout


def by_psql():
    script = "".join(f"{statement};\n\\echo '{MARK}'\n" for statement in STATEMENTS)
    answers = psql("--csv", "-t", script=script).split(MARK + "\n")[: len(STATEMENTS)]
    return [[[text(value) for value in row] for row in csv.reader(io.StringIO(answer))] for answer in answers]


def by_psycopg(statements=None):
    with psycopg.connect(host=HOST, port=PORT, user="analyst", password=KEY, dbname="daybook") as connection:
        return [[[text(value) for value in row] for row in connection.execute(statement.replace("%", "%%"), ()).fetchall()]
                for statement in statements or STATEMENTS]


def engine():
    return sa.create_engine(sa.URL.create("postgresql+psycopg", "analyst", KEY, HOST, int(PORT), "daybook"))


def by_sqlalchemy():
    with engine().connect() as connection:
        return [[[text(value) for value in row] for row in connection.exec_driver_sql(statement.replace("%", "%%"), ()).fetchall()]
                for statement in STATEMENTS]


def jdbc(script):
    file = Path(os.environ["TMPDIR"]) / "statements.sql"
    file.write_text(script)
    command = ["java", "-cp", f"{JDBC_LIBS}/*", "sqlline.SqlLine", "-u", f"jdbc:postgresql://{HOST}:{PORT}/daybook"]
    command += ["-n", "analyst", "-p", KEY, "--outputformat=csv", "--silent=true", "--isolation=TRANSACTION_READ_COMMITTED"]
    command += ["--showHeader=false", "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "Error:" in done.stdout + done.stderr:
        raise RuntimeError(f"JDBC: {done.stdout}{done.stderr}"[-3000:])
    return done.stdout


def by_jdbc():
    script = "".join(f"{statement};\nSELECT '{MARK}';\n" for statement in STATEMENTS)
    answers, rows = [], []
    for line in jdbc(script).splitlines():
        for row in csv.reader([line], quotechar="'"):
            if row == [MARK]:
                answers.append(rows)
                rows = []
            elif line.startswith("'"):
                rows.append(["" if value == "null" else value for value in row])
    return answers


def by_adbc(key, statements):
    options = {"username": "analyst", "password": key, "adbc.flight.sql.client_option.tls_root_certs": Path(os.environ["PGSSLROOTCERT"]).read_text()}
    answers = []
    with flight.connect(f"grpc+tls://{HOST}:{FLIGHT_PORT}", db_kwargs=options, autocommit=True) as connection:
        for statement in statements:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                answers.append([[text(value) for value in row] for row in cursor.fetchall()])
    return answers


def flight_agrees():
    statements = [statement for statement in STATEMENTS if not any(word in statement for word in POSTGRESQL)]
    assert len(statements) > 30, statements
    for statement, answer, expected in zip(statements, by_adbc(KEY, statements), by_psycopg(statements), strict=True):
        assert answer == expected, f"{statement}: {answer} instead of {expected}"


def flight_has_roles():
    (people,) = by_adbc(ANALYST_KEY, ["SELECT DISTINCT user_key FROM rollup_daily"])
    assert len(people) > 3 and all(person.startswith("pseudonym:") for (person,) in people), people
    for key, statement, says in ((ANALYST_KEY, "SELECT * FROM events", "not for the role"), (KEY, "DROP TABLE events", "DROP"),
                                 (KEY[:-3] + "AAA", "SELECT 1", "unknown")):
        try:
            by_adbc(key, [statement])
        except flight.Error as error:
            assert says in str(error), error
        else:
            raise AssertionError(f"{statement} was not refused")


def parameters():
    with psycopg.connect(host=HOST, port=PORT, user="analyst", password=KEY, dbname="daybook", autocommit=True) as connection:
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            for _ in range(8):  # From the sixth on the statement is a prepared one.
                cursor.execute("SELECT count(*) FROM events WHERE client_type = %s AND event_date >= %s", ("cli", "2000-01-01"))
                counted = cursor.fetchone()[0]
            assert counted == connection.execute("SELECT count(*) FROM events WHERE client_type = 'cli'").fetchone()[0]
            cursor.execute("SELECT user_key, prompts, activity_date, day_start, credits_used, newly_activated FROM rollup_daily LIMIT %s", (3,))
            assert len(cursor.fetchall()) == 3
        cursor = connection.execute("SELECT count(*) FROM events WHERE client_type = ANY(%s)", (["cli", "ide"],))
        assert cursor.fetchone()[0] > counted


def cursor():
    with psycopg.connect(host=HOST, port=PORT, user="analyst", password=KEY, dbname="daybook") as connection:
        with connection.transaction(), connection.cursor(name="walk") as walk:
            walk.itersize = 100
            walk.execute("SELECT user_key FROM events ORDER BY user_key")
            walked = [key for (key,) in walk]
        assert walked == [key for (key,) in connection.execute("SELECT user_key FROM events ORDER BY user_key")]
        assert len(walked) > 200


def transactions():
    with psycopg.connect(host=HOST, port=PORT, user="analyst", password=KEY, dbname="daybook") as connection:
        try:
            with connection.transaction():
                connection.execute("SELECT no_such_column FROM events")
        except psycopg.errors.UndefinedColumn:
            pass
        assert connection.execute("SELECT 1").fetchone() == (1,)
        for refused in ("DELETE FROM events", "COPY events TO STDOUT", "CREATE TABLE t (a INT)"):
            try:
                with connection.transaction():
                    connection.execute(refused)
                raise AssertionError(f"{refused} was not refused")
            except psycopg.errors.ReadOnlySqlTransaction:
                pass


def described():
    if not shutil.which("psql"):
        raise NotImplementedError("psql is not installed")
    for command, says in (("\\d", "rollup_daily"), ("\\dt", "events"), ("\\dt+", "Active people of the day"), ("\\dn", "public"),
                          ("\\l", "daybook"), ("\\d rollup_daily", "activity_date"), ("\\d+ rollup_daily", "First instant of the day")):
        answer = psql("-c", command)
        assert says in answer, f"{command}: {answer}"


def reflected():
    database = engine()
    inspector = sa.inspect(database)
    assert {"events", "rollup_daily", "team_members"} <= set(inspector.get_table_names())
    columns = {column["name"]: column for column in inspector.get_columns("rollup_daily")}
    assert columns["user_key"]["comment"] == "Person." and isinstance(columns["activity_date"]["type"], sa.DATE)
    assert inspector.get_indexes("rollup_daily") == [] and inspector.get_pk_constraint("rollup_daily")["constrained_columns"] == []
    table = sa.Table("rollup_daily", sa.MetaData(), autoload_with=database)
    query = sa.select(table.c.client_type, sa.func.sum(table.c.prompts)).where(table.c.prompts > 1).group_by(table.c.client_type)
    with database.connect() as connection:
        assert connection.execute(query).fetchall()


def jdbc_described():
    answer = jdbc("!tables\n!columns rollup_daily\n")
    assert "'rollup_daily','TABLE'" in answer and "First instant of the day" in answer, answer


def check(of):
    try:
        of()
        return "ok"
    except Exception as error:  # Told by the test, which names it.
        return f"{type(error).__name__}: {error}"[:2000]


def main():
    clients = {"psql": by_psql, "psycopg": by_psycopg, "SQLAlchemy": by_sqlalchemy, "JDBC": by_jdbc}
    if not shutil.which("psql"):
        del clients["psql"]
    answers = {name: ask() for name, ask in clients.items()}
    differences = []
    for number, statement in enumerate(STATEMENTS):
        given = {name: answer[number] if number < len(answer) else None for name, answer in answers.items()}
        if any(answer != given["psycopg"] for answer in given.values()) or not given["psycopg"]:
            differences.append({"statement": statement, "answers": given})
    checks = (parameters, cursor, transactions, described, reflected, jdbc_described, flight_agrees, flight_has_roles)
    result = {"statements": len(STATEMENTS), "differences": differences, "checks": {of.__name__: check(of) for of in checks}}
    json.dump(result, sys.stdout)


main()
