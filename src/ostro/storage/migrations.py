"""Numbered migrations. Append only: one that has been released never changes, the next one corrects it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, inspect, select, text

from ostro.core.errors import ConfigError
from ostro.storage.schema import migrations


@dataclass(frozen=True)
class Migration:
    """statements: run in order, in one transaction with all the others that are new."""

    number: int
    name: str
    statements: tuple[str, ...]


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "responses",
        (
            """
            CREATE TABLE responses (
                id VARCHAR PRIMARY KEY NOT NULL,
                created_at DOUBLE PRECISION NOT NULL,
                expires_at DOUBLE PRECISION,
                previous_id VARCHAR,
                model VARCHAR NOT NULL,
                body JSON NOT NULL,
                input JSON NOT NULL,
                output JSON NOT NULL
            )
            """,
            "CREATE INDEX responses_expires_at ON responses (expires_at)",
        ),
    ),
    Migration(
        2,
        "files",
        (
            """
            CREATE TABLE files (
                id VARCHAR PRIMARY KEY NOT NULL,
                created_at DOUBLE PRECISION NOT NULL,
                expires_at DOUBLE PRECISION,
                filename VARCHAR NOT NULL,
                purpose VARCHAR NOT NULL,
                sample_type VARCHAR NOT NULL,
                source VARCHAR NOT NULL,
                mimetype VARCHAR,
                bytes BIGINT NOT NULL,
                num_lines BIGINT,
                sha256 VARCHAR NOT NULL
            )
            """,
            "CREATE INDEX files_created_at ON files (created_at, id)",
            "CREATE INDEX files_expires_at ON files (expires_at)",
        ),
    ),
    Migration(
        3,
        "batch jobs",
        (
            """
            CREATE TABLE batch_jobs (
                id VARCHAR PRIMARY KEY NOT NULL,
                face VARCHAR NOT NULL,
                endpoint VARCHAR NOT NULL,
                model VARCHAR,
                input_files JSON NOT NULL,
                metadata JSON,
                "window" VARCHAR NOT NULL,
                status VARCHAR NOT NULL,
                created_at DOUBLE PRECISION NOT NULL,
                deadline DOUBLE PRECISION NOT NULL,
                started_at DOUBLE PRECISION,
                cancelling_at DOUBLE PRECISION,
                finished_at DOUBLE PRECISION,
                total BIGINT NOT NULL,
                succeeded BIGINT NOT NULL,
                failed BIGINT NOT NULL,
                input_tokens BIGINT NOT NULL,
                cached_tokens BIGINT NOT NULL,
                output_tokens BIGINT NOT NULL,
                reasoning_tokens BIGINT NOT NULL,
                output_expires_s DOUBLE PRECISION,
                error VARCHAR,
                output_file VARCHAR,
                error_file VARCHAR,
                lease_owner VARCHAR,
                lease_until DOUBLE PRECISION
            )
            """,
            "CREATE INDEX batch_jobs_created_at ON batch_jobs (created_at, id)",
            "CREATE INDEX batch_jobs_status ON batch_jobs (status)",
            """
            CREATE TABLE batch_lines (
                job_id VARCHAR NOT NULL REFERENCES batch_jobs (id) ON DELETE CASCADE,
                number BIGINT NOT NULL,
                succeeded INTEGER NOT NULL,
                line VARCHAR NOT NULL,
                PRIMARY KEY (job_id, number)
            )
            """,
        ),
    ),
    Migration(
        4,
        "owners of responses",
        ("ALTER TABLE responses ADD COLUMN owner VARCHAR NOT NULL DEFAULT ''",),
    ),
    Migration(
        5,
        "owners of files and batch jobs",
        (
            "ALTER TABLE files ADD COLUMN owner VARCHAR NOT NULL DEFAULT ''",
            "ALTER TABLE batch_jobs ADD COLUMN owner VARCHAR NOT NULL DEFAULT ''",
        ),
    ),
    Migration(
        6,
        "keys of gateways, and what they paid",
        (
            """
            CREATE TABLE api_keys (
                id VARCHAR PRIMARY KEY NOT NULL,
                digest VARCHAR NOT NULL UNIQUE,
                hint VARCHAR NOT NULL,
                name VARCHAR NOT NULL,
                tenant VARCHAR NOT NULL,
                tier VARCHAR NOT NULL,
                admin INTEGER NOT NULL,
                watches INTEGER NOT NULL,
                models JSON,
                region VARCHAR,
                priority INTEGER NOT NULL,
                budget BIGINT,
                requests_per_minute BIGINT,
                tokens_per_minute BIGINT,
                concurrency BIGINT,
                created_at DOUBLE PRECISION NOT NULL,
                expires_at DOUBLE PRECISION,
                revoked_at DOUBLE PRECISION,
                spent BIGINT NOT NULL,
                reserved BIGINT NOT NULL,
                running BIGINT NOT NULL,
                recent VARCHAR NOT NULL
            )
            """,
            "CREATE INDEX api_keys_tenant ON api_keys (tenant, created_at)",
            """
            CREATE TABLE calls (
                id VARCHAR PRIMARY KEY NOT NULL,
                key_id VARCHAR NOT NULL,
                tenant VARCHAR NOT NULL,
                model VARCHAR NOT NULL,
                endpoint VARCHAR NOT NULL,
                node VARCHAR,
                replica VARCHAR NOT NULL,
                state VARCHAR NOT NULL,
                outcome VARCHAR,
                reserved BIGINT NOT NULL,
                reserved_tokens BIGINT NOT NULL,
                charge BIGINT NOT NULL,
                prompt_tokens BIGINT NOT NULL,
                completion_tokens BIGINT NOT NULL,
                started_at DOUBLE PRECISION NOT NULL,
                ended_at DOUBLE PRECISION
            )
            """,
            "CREATE INDEX calls_key ON calls (key_id, started_at)",
            "CREATE INDEX calls_tenant ON calls (tenant, started_at)",
            "CREATE INDEX calls_open ON calls (replica) WHERE state = 'open'",
            """
            CREATE TABLE replicas (
                id VARCHAR PRIMARY KEY NOT NULL,
                name VARCHAR NOT NULL,
                seen_at DOUBLE PRECISION NOT NULL
            )
            """,
        ),
    ),
)


def migrate(connection: Connection, known: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply what is new. `connection` is in a transaction that writes, so of two servers one does it.

    Raises ConfigError for a database that a newer Ostro has migrated: its tables may mean something else by now.
    """
    if not inspect(connection).has_table(migrations.name):
        migrations.create(connection)
    applied = connection.execute(select(func.max(migrations.c.number))).scalar() or 0
    newest = known[-1].number
    if applied > newest:
        raise ConfigError(
            f"The store was written by a newer Ostro: it has migration {applied}, and this one knows {newest}. "
            "Upgrade Ostro, or choose another store.",
            param="store",
        )
    for migration in known:
        if migration.number <= applied:
            continue
        for statement in migration.statements:
            connection.execute(text(statement))
        row = {"number": migration.number, "name": migration.name, "applied_at": time.time()}
        connection.execute(insert(migrations).values(row))
