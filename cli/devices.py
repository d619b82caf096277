"""`pdtool devices`: the boards pdtool knows."""

from typing import Annotated

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, table

app = typer.Typer(no_args_is_help=True, help="The boards pdtool knows: memory, bandwidth, peaks, what runs there.")


@app.command("list")
def list_(json: options.Json = False) -> None:
    """Every board with its memory and peak rates (dense, GPU alone)."""
    from pdtool.devices.catalogue import all_devices

    if json:
        emit(all_devices())
        return
    rows = [
        (
            board.id,
            f"{board.memory_bytes / 1e9:g} GB" + ("+" if board.memory_note else ""),
            f"{board.bandwidth / 1e9:g} GB/s",
            *(_tera(board.peak(precision)) for precision in ("fp32", "fp16", "int8")),
            board.compute_capability,
            "yes" if board.supported else "no",
        )
        for board in all_devices()
    ]
    headers = ("board", "memory", "bandwidth", "fp32 T/s", "fp16 T/s", "int8 T/s", "capability", "TensorRT usable")
    table("Boards (10^12 operations a second, dense, GPU alone; '+' larger versions exist)", headers, rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A board's id, or enough of its start.")], json: options.Json = False
) -> None:
    """One board: every figure, what it is based on and its source."""
    from pdtool.devices.catalogue import find

    board = find(name)
    if json:
        emit(board)
        return
    memory = f"{board.memory_bytes / 1e9:g} GB " + (
        "shared with the CPU" if board.memory_shared else "of the GPU alone"
    )
    dla = f"{board.dla_count}, {_tera(board.int8_dla_ops)} TOP/s int8; pdtool does not use them"
    rows = (
        ("id", board.id),
        ("kind", f"{board.kind}, {board.architecture}, compute capability {board.compute_capability}"),
        ("GPU", f"{board.sm_count} multiprocessors at {board.gpu_clock_hz / 1e6:g} MHz"),
        ("memory", f"{memory}, {board.bandwidth / 1e9:g} GB/s"),
        ("memory note", board.memory_note),
        ("fp32 peak", f"{_tera(board.fp32_flops)} TFLOP/s"),
        ("fp16 peak", f"{_tera(board.fp16_flops)} TFLOP/s, with FP32 sums {_tera(board.fp16_fp32acc_flops)}"),
        ("int8 peak", f"{_tera(board.int8_ops)} TOP/s"),
        ("vendor says", board.vendor_headline),
        ("accelerators", dla if board.dla_count else None),
        ("power", board.power),
        ("JetPack", board.jetpack),
        ("L4T", board.l4t),
        ("CUDA", board.cuda),
        ("TensorRT", board.tensorrt),
        ("Python", board.python),
        ("TensorRT usable", board.runtime_support),
        ("based on", board.basis),
        ("source", board.source),
    )
    typer.echo(board.name)
    for name, value in rows:
        if value:
            typer.echo(f"  {name:<16} {value}")


def _tera(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate / 1e12:g}"
