"""The tables, as queries name them. Migrations make them; a test holds both to the same columns.

Times are seconds since the epoch, UTC. JSON columns take and give Python values.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Double, Integer, MetaData, String, Table

metadata = MetaData()

# What has been applied, one row a migration.
migrations = Table(
    "migrations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("applied_at", Double, nullable=False),
)

# Stored answers of /v1/responses. previous_id may name one that is gone. owner: the hash of the API key that may find
# it, empty where the server wanted none. body: all but the output. input: what came in this request alone.
responses = Table(
    "responses",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("previous_id", String),
    Column("model", String, nullable=False),
    Column("body", JSON, nullable=False),
    Column("input", JSON, nullable=False),
    Column("output", JSON, nullable=False),
    Column("owner", String, nullable=False, server_default=""),
)

# One row a file in the store's folder, which is named by the id. source: "upload", or "mistral" for what a batch wrote.
files = Table(
    "files",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("sample_type", String, nullable=False),
    Column("source", String, nullable=False),
    Column("mimetype", String),
    Column("bytes", BigInteger, nullable=False),
    Column("num_lines", BigInteger),
    Column("sha256", String, nullable=False),
    Column("owner", String, nullable=False, server_default=""),
)

# Jobs of /v1/batch/jobs and /v1/batches. status: see ostro.storage.jobs. deadline: when it times out.
# lease_owner, lease_until: the server that runs it, and until when it may without renewing.
batch_jobs = Table(
    "batch_jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("face", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("model", String),
    Column("input_files", JSON, nullable=False),
    Column("metadata", JSON),
    Column("window", String, nullable=False),
    Column("status", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("deadline", Double, nullable=False),
    Column("started_at", Double),
    Column("cancelling_at", Double),
    Column("finished_at", Double),
    Column("total", BigInteger, nullable=False),
    Column("succeeded", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("output_expires_s", Double),
    Column("error", String),
    Column("output_file", String),
    Column("error_file", String),
    Column("lease_owner", String),
    Column("lease_until", Double),
    Column("owner", String, nullable=False, server_default=""),
)

# Finished lines of unfinished jobs. number counts the job's requests from 0; line is what the output file gets.
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("job_id", String, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("succeeded", Integer, nullable=False),
    Column("line", String, nullable=False),
)

# Keys of a gateway. digest: SHA-256 of the key, in hex; hint: how it begins, for people to tell keys apart. admin,
# watches: 1 where it may administer, and read what is told of all tenants. models: None is all. budget and what counts
# against it, spent and reserved, are micro-dollars; running: calls that hold a reservation. recent: what the last
# minute had, as `ostro.storage.recent` reads it. Limits that are None: the tier's.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("hint", String, nullable=False),
    Column("name", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("tier", String, nullable=False),
    Column("admin", Integer, nullable=False),
    Column("watches", Integer, nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("region", String),
    Column("priority", Integer, nullable=False),
    Column("budget", BigInteger),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrency", BigInteger),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("spent", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("running", BigInteger, nullable=False),
    Column("recent", String, nullable=False),
)

# One row a call through a gateway. state: "open", "settled", or "recovered" where its replica died and it was charged
# as of its last checkpoint. charge: micro-dollars, of an open call those that it owes already. replica: who answers it.
calls = Table(
    "calls",
    metadata,
    Column("id", String, primary_key=True),
    Column("key_id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("model", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("node", String),
    Column("replica", String, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", String),
    Column("reserved", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
)

# Gateways that use this store. id: of one life of the process; name: of all its lives. seen_at: by the store's clock.
replicas = Table(
    "replicas",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("seen_at", Double, nullable=False),
)
