"""The synchronous engine: schedule, run, sample. One thread, no asyncio; it never knows who watches."""
