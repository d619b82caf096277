"""A plan from an ONNX file: what an export does ahead and a device does on first use.

Precision lives in the ONNX file (half tensors, Q/DQ nodes), as TensorRT 10 and later take it from there. Two older ways
remain where the network is not strongly typed (8.6): the flags that allow the types which the file already has.
"""

from dataclasses import dataclass
from typing import Any

from pdtool.artifacts import BuildOptions, Bundle
from pdtool.devices.memory import give_back
from pdtool.errors import GateError, InputError, MissingError
from pdtool.runtime.tensorrt_module import library_of, logger_of, said

__all__ = ["BuildOptions", "TimingCache", "build_plan", "options_of"]


@dataclass
class TimingCache:
    """Measured kernel times, handed from build to build: members are alike, so the first one pays for all."""

    blob: bytes = b""


def options_of(bundle: Bundle) -> BuildOptions:
    """How a device builds a bundle's plans: as the export did, else for batches up to the bundle's measured one."""
    return bundle.build or BuildOptions(precision=bundle.precision, batch_max=bundle.measured_batch)


def build_plan(
    trt: Any, onnx: bytes, options: BuildOptions, *, name: str, timing: TimingCache | None = None
) -> tuple[bytes, tuple[int, ...]]:
    """The plan of an ONNX file's bytes, and the shape (C, H, W) of one image.

    `trt` is the module object; where it needs a GPU to build, that GPU is current in this thread. `timing` is read and
    renewed, except by TensorRT-RTX, where it does nothing but ask for a GPU. Raises InputError with node and operator
    where the parser refuses the file, GateError with TensorRT's own words where the build fails.
    """
    logger = logger_of(trt)
    logger.messages.clear()
    try:
        builder = trt.Builder(logger)
    except TypeError:  # what the binding makes of a null pointer
        raise MissingError(f"TensorRT's builder does not start ({said(trt)}); run `pdtool doctor`") from None
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise InputError(f"{name}: TensorRT refuses the file ({_parser_errors(trt, parser)}); export it again")
    config = builder.create_builder_config()
    _configure(trt, config, options)
    image = _add_profile(builder, network, config, options, name)
    cache = None
    if timing is not None and library_of(trt) == "tensorrt":
        cache = config.create_timing_cache(timing.blob)
        config.set_timing_cache(cache, False)  # a cache of another GPU or version is an error, not a slow plan
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GateError(f"{name}: TensorRT builds no plan ({said(trt)}); give it more --workspace or use --format onnx")
    if timing is not None and cache is not None:
        timing.blob = bytes(config.get_timing_cache().serialize())
    plan = bytes(plan)
    del cache, config, parser, network, builder  # what was made last goes first, as in TensorRT's own samples
    give_back()
    return plan, image


def _network_flags(trt: Any) -> int:
    """Strongly typed where that exists (10.0 on; always so in 11), else with the batch in the shapes (8.6)."""
    flags = trt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED"):
        return 1 << int(flags.STRONGLY_TYPED)
    return 1 << int(flags.EXPLICIT_BATCH)


def _parser_errors(trt: Any, parser: Any) -> str:
    """What the parser found: its words, and node and operator where this line's errors know them (10.0 on)."""
    errors = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        where = f"node {error.node()}: " if error.node() >= 0 else ""
        if where and hasattr(error, "node_name"):
            where = f"node {error.node_name() or error.node()} ({error.node_operator()}): "
        errors.append(where + " ".join(error.desc().split()))
    return "; ".join(errors) or said(trt)


def _configure(trt: Any, config: Any, options: BuildOptions) -> None:
    pools = trt.MemoryPoolType
    if options.workspace is not None:
        config.set_memory_pool_limit(pools.WORKSPACE, options.workspace)
    if options.tactic_dram is not None and hasattr(pools, "TACTIC_DRAM"):
        config.set_memory_pool_limit(pools.TACTIC_DRAM, options.tactic_dram)
    if options.level is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = options.level
    if options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, with 10 bits where fp32 has 23
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        # Without them 8.6 refuses the file's own types ("fp16 precision has been set for a layer or layer output, but
        # fp16 is not configured in the builder", NVIDIA/TensorRT issues 1823 and 3277).
        if options.precision == "fp16":
            config.set_flag(trt.BuilderFlag.FP16)
        if options.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)


def _add_profile(builder: Any, network: Any, config: Any, options: BuildOptions, name: str) -> tuple[int, ...]:
    """One optimisation profile over the batch; returns the shape of one image."""
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise InputError(
            f"{name}: expected one input and one output, got {network.num_inputs} and {network.num_outputs}; "
            f"export it again"
        )
    given = network.get_input(0)
    batch, *image = (int(length) for length in given.shape)
    if batch != -1 or min(image, default=0) < 1:
        raise InputError(f"{name}: expected an input whose batch alone varies, got {(batch, *image)}; export it again")
    profile = builder.create_optimization_profile()
    profile.set_shape(given.name, (options.batch_min, *image), (options.batch_opt, *image), (options.batch_max, *image))
    if config.add_optimization_profile(profile) == -1:
        raise GateError(f"{name}: TensorRT refuses batches of {options.batch_min} to {options.batch_max}")
    return tuple(image)
