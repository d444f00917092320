"""Goldens of vector files, written by the packages that others write them with: gguf (llama.cpp) and safetensors.

    python scripts/references/vector_files.py            writes tests/golden/vectors/
    python scripts/references/vector_files.py --check    compares with what is there

tests/unit/test_vector_files.c reads them, and writes repeng.gguf and stated.safetensors again, byte for byte: so what
Coxswain writes is what these packages write, and they read it (this script reads both back itself).
"""
import json
import math
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE]  # tokenizers.py beside this is not the package

import gguf  # noqa: E402
import numpy as np  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import save  # noqa: E402

OUT = HERE.parents[1] / "tests" / "golden" / "vectors"
WIDTH = 9


def row(seed):
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


def write_gguf(path, layers, extra=()):
    """In repeng's layout: export_gguf of its ControlVector."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "olmoe")
    writer.add_uint32("controlvector.layer_count", len(layers))
    for kind, key, value in extra:
        getattr(writer, f"add_{kind}")(key, value)
    for layer in layers:
        writer.add_tensor(f"direction.{layer}", row(layer))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def glp(mode, hook="residual_stream_post_layer", zero_based=True):
    return [("string", "glp.mode", mode), ("string", "glp.hook_point", hook), ("bool", "glp.layer_ids_zero_based", zero_based),
            ("float32", "glp.alpha", 1.5), ("array", "glp.layers", [1, 2]), ("array", "glp.notes", ["one", "two"])]


def number(x):
    return f"{x:.17g}"


def stated():
    """The metadata that our writer makes of two vectors: keys sorted, numbers of 17 digits, no spaces."""
    a, b = row(100), row(101)
    norms = [number(math.sqrt(sum(float(x) * float(x) for x in v))) for v in (a, b)]
    tensors = {"a": {"expert": 5, "layer": 3, "model_fingerprint": "aaaa", "norm": "@0", "operation": "add",
                     "positions": {"last": 5}, "provenance": {"made": "by a test"}, "site": "expert_out",
                     "tokenizer_fingerprint": "tttt", "weighting": "routed"},
               "b": {"norm": "@1"}}
    text = json.dumps({"tensors": tensors, "version": 1}, separators=(",", ":"), sort_keys=True)
    for i, norm in enumerate(norms):
        text = text.replace(f'"@{i}"', norm)
    return save({"a": a, "b": b}, {"coxswain": text})


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf(folder / "repeng.gguf", [1, 2, 3])
    write_gguf(folder / "block-0.gguf", [0, 1])
    write_gguf(folder / "glp-add.gguf", [1, 2], glp("add"))
    write_gguf(folder / "glp-project.gguf", [1, 2], glp("project"))
    write_gguf(folder / "glp-mode.gguf", [1], glp("melt"))
    write_gguf(folder / "glp-hook.gguf", [1], glp("add", "mlp_output"))
    write_gguf(folder / "glp-one-based.gguf", [1], glp("add", zero_based=False))
    write_gguf(folder / "glp-no-hook.gguf", [1], glp("add")[:1])
    (folder / "stated.safetensors").write_bytes(stated())
    (folder / "plain.safetensors").write_bytes(save({"only": row(7)}))
    (folder / "rows.json").write_text(json.dumps({str(i): [float(x) for x in row(i)] for i in (0, 1, 2, 3, 7, 100, 101)}) + "\n")


def read_back(folder):
    reader = gguf.GGUFReader(folder / "repeng.gguf")
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2", "direction.3"]
    assert all((t.data == row(i + 1)).all() for i, t in enumerate(reader.tensors))
    with safe_open(folder / "stated.safetensors", "numpy") as file:
        assert (file.get_tensor("a") == row(100)).all() and json.loads(file.metadata()["coxswain"])["version"] == 1


def main():
    if sys.argv[1:] != ["--check"]:
        make(OUT)
        read_back(OUT)
        return
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        for path in sorted(Path(scratch).iterdir()):
            if path.read_bytes() != (OUT / path.name).read_bytes():
                sys.exit(f"{OUT / path.name} is not what this script makes")
    read_back(OUT)
    print("as made")


if __name__ == "__main__":
    main()
