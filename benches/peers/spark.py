#!/usr/bin/env python3
"""Spark Structured Streaming: the topic, from the first record to the last, into a Delta table.

It makes the columns of `events` from the same JSON, by day, in zstd, and keeps what is no event in the column `corrupt` of the
same table. Where that is less work than the worker's, the difference is Spark's gain: it does not sort rows, keeps no
attributes without a column (`ext`), knows no duplicate ids, refuses no content, and has no second table.

Settings, and why:
  local[2]                       both cores, as every program here has
  driver memory 2 GB             nothing spills, and the collector of garbage has room
  340,000 records a micro-batch  three for a million records; fewer would pay for planning and committing more often
  coalesce(2)                    a task for each core; one for each of the topic's partitions writes three times the files
  -XX:-DontCompileHugeMethods    some 90 columns make methods beyond HotSpot's limit, which it would interpret; once 20 % less
                                 processor time for rows; it makes start-up, which does not count, dearer
  2 partitions after a shuffle   only Delta's reading of its own log has one; 50 tasks by default, which took longer than the rows
  concurrent file writers        as many as there are days: Spark sorts by day otherwise
  zstd level 1                   as the worker has
  warm-up                        on a topic of its own, before `ready`: the JVM has compiled what it will run by then
"""
import glob, os, time

from pyspark.sql import SparkSession, functions as F, types as T

import peer

RECORDS_PER_BATCH = 340_000
TYPES = {"text": T.StringType(), "int": T.LongType(), "bool": T.BooleanType(), "time": T.TimestampType(),
         "decimal": T.DecimalType(20, 6)}
ENVELOPE = {"specversion": "text", "id": "text", "source": "text", "type": "text", "time": "time", "subject": "text"}


def session(jars):
    settings = {
        "spark.jars": ",".join(sorted(glob.glob(os.path.join(jars, "*.jar")))),
        "spark.driver.memory": "2g",
        "spark.driver.extraJavaOptions": "-XX:-DontCompileHugeMethods",
        "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
        "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.maxConcurrentOutputFileWriters": "64",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.hadoop.parquet.compression.codec.zstd.level": "1",
        "spark.databricks.delta.properties.defaults.enableDeletionVectors": "false",
        "spark.sql.streaming.noDataMicroBatches.enabled": "false",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master("local[2]").appName("peer")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def schema(columns):
    """What from_json reads: envelope and data, each property once."""
    envelope, data = dict(ENVELOPE), {}
    for column in columns:
        for name in column["from"]:
            (data if column["in_data"] else envelope)[name] = column["type"]
    field = lambda name, kind: T.StructField(name, TYPES[kind])
    inner = T.StructType([field(*f) for f in sorted(data.items())])
    return T.StructType([field(*f) for f in envelope.items()] + [T.StructField("data", inner), T.StructField("corrupt", T.StringType())])


def header(name):
    # Not by a lambda: Spark compiles none, nor what stands around it.
    return F.map_from_entries("headers")[name].cast("string")


def rows(records, a):
    """Records of the log as rows of `events`."""
    parsed = records.select(
        F.from_json(F.col("value").cast("string"), schema(a.columns["columns"]), {"columnNameOfCorruptRecord": "corrupt"}).alias("e"),
        F.col("value"), header("daybook-org").alias("org_id"), F.to_timestamp(header("daybook-recorded-time")).alias("recorded_time"),
        header("daybook-vantage").alias("vantage"), F.col("partition").alias("log_partition"), F.col("offset").alias("log_offset"))
    required = ["id", "source", "type", "time", "subject"]
    good = F.col("e.corrupt").isNull() & (F.col("e.specversion") == "1.0")
    for name in required:
        good = good & F.col(f"e.{name}").isNotNull()
    good = F.coalesce(good, F.lit(False))
    client = F.regexp_replace(F.lower("e.clienttype"), "-", "_")
    out = [
        F.coalesce(F.to_date("e.time"), F.to_date("recorded_time")).alias("event_date"), F.col("org_id"),
        F.col("e.subject").alias("user_key"),
        F.when(client.isin(a.columns["client_types"]), client).otherwise("unknown").alias("client_type"),
        F.col("e.time").alias("event_time"), F.unhex(F.translate("e.id", "-", "")).alias("event_id"),
        F.col("e.source").alias("source"), F.col("e.type").alias("event_type"),
        F.col("recorded_time"), F.col("vantage"), F.col("log_partition"), F.col("log_offset"),
        F.xxhash64("value").alias("payload_hash"),
    ]
    for column in a.columns["columns"]:
        place = "e.data" if column["in_data"] else "e"
        out.append(F.coalesce(*[F.col(f"{place}.{name}") for name in column["from"]]).alias(column["column"]))
    out.append(F.when(~good, F.col("value")).alias("corrupt"))
    return parsed.select(*out)


def run(spark, a, topic, folder):
    """From the topic's first record to its last; gives the query's own account of it."""
    source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", a.bootstrap).option("subscribe", topic)
    source = source.option("startingOffsets", "earliest").option("includeHeaders", "true")
    source = source.option("maxOffsetsPerTrigger", RECORDS_PER_BATCH)
    sink = rows(source.load().coalesce(2), a).writeStream.format("delta").partitionBy("event_date")
    sink = sink.option("checkpointLocation", os.path.join(folder, "checkpoint")).trigger(availableNow=True)
    query = sink.start(os.path.join(folder, "events"))
    query.awaitTermination()
    return [dict(rows=p["numInputRows"], ms=p["durationMs"]["triggerExecution"]) for p in query.recentProgress]


def main():
    a = peer.arguments()
    spark = session(os.environ["DAYBOOK_PEERS_SPARK_JARS"])
    if a.warm_up:
        run(spark, a, a.warm_up, os.path.join(a.folder, "warm-up"))
    peer.ready()
    started = time.monotonic()
    progress = run(spark, a, a.topic, a.folder)
    peer.done({"seconds": time.monotonic() - started, "batches": progress})
    spark.stop()


main()
