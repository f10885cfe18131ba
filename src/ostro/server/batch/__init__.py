"""Batch jobs: a JSONL of requests in, a JSONL of answers out, at low priority and across restarts."""

from ostro.server.batch.runner import BatchRunner

__all__ = ["BatchRunner"]
