"""Measured memory follows the files: raw figures of a fresh process, so every bound here can be missed."""

from pdtool.runtime.measure import measure_models


def test_a_loaded_model_holds_its_weights_once_and_its_load_a_few_times(make_onnx, tmp_path):
    paths = {}
    for width in (1024, 4096):  # 4 and 16 MiB
        paths[str(width)] = tmp_path / f"{width}.onnx"
        paths[str(width)].write_bytes(make_onnx(width))
    measured = measure_models(paths, (1, 32, 32), batch=8, threads=1)
    for name, figures in measured.items():
        size = paths[name].stat().st_size
        assert size <= figures.resident_bytes < 1.3 * size  # neither the weights nor the file's bytes are held twice
        assert 1.5 * size < figures.load_peak_bytes < 4 * size  # the file, the weights and their packed form
    small, large = measured["1024"], measured["4096"]
    assert 3.5 < large.resident_bytes / small.resident_bytes < 4.5
    assert 3.5 < large.load_peak_bytes / small.load_peak_bytes < 4.5
