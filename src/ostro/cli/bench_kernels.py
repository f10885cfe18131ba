"""`ostro bench kernels`: how near each native kernel comes to what this machine can do."""

from __future__ import annotations

import json

import typer


def bench_kernels(*, rounds: int, as_json: bool) -> None:
    """Print the machine's limits and each kernel beside them. Exits with 1 where there are no native kernels."""
    from ostro.kernels.measure import measure_kernels, measure_machine

    try:
        machine = measure_machine()
    except RuntimeError as error:
        typer.echo(f"error: {error}.", err=True)
        raise typer.Exit(1) from error
    if as_json:
        timings = [timing.as_json(machine) for timing in measure_kernels(rounds)]
        limits = {
            "read_bytes_per_s": machine.read,
            "multiply_ops_per_s": machine.multiply,
            "float_ops_per_s": machine.floats,
        }
        typer.echo(json.dumps({"isa": machine.kernels, "threads": machine.threads, **limits, "kernels": timings}))
        return
    multiply = f"{machine.multiply / 1e9:.0f} GOP/s" if machine.multiply else "not known"
    typer.echo(f"{machine.kernels}, {machine.threads} threads: reads memory at {machine.read / 1e9:.1f} GB/s, "
               f"multiplies int8 at {multiply}, float32 at {machine.floats / 1e9:.0f} GFLOP/s")  # fmt: skip
    typer.echo(f"{'kernel':16}{'shape':58}{'time':>10}{'GB/s':>8}{'GOP/s':>8}{'of roof':>9}")
    for timing in measure_kernels(rounds):
        operations = f"{timing.operations / timing.seconds / 1e9:.0f}" if timing.operations else "-"
        typer.echo(
            f"{timing.kernel:16}{timing.shape:58}{timing.seconds * 1e3:>7.2f} ms"
            f"{timing.bytes / timing.seconds / 1e9:>8.1f}{operations:>8}{timing.share(machine):>9.0%}"
        )
