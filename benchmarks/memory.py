"""Peak memory while preparing and while training, on few and on many volumes.

    python benchmarks/memory.py [--few 8] [--many 80] [--size 256] [--depth 40]

The volumes are copies of four phantom patients with different noise. Each measurement is a process of its own; the
figure is the largest resident set of that process and, for preparing, of its workers (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from ratios import ratio

from fedcowpro.data.phantom import write_site

LIMIT = 1.15
PREPARE = """
from fedcowpro.config import PrepareConfig
from fedcowpro.data.preparation.prepare import prepare
prepare(Path(folder) / "raw", Path(folder) / "site", PrepareConfig(size=size), workers=2, progress=False,
        cases=[str(n) for n in range(count)])
"""
TRAIN = """
import torch
from fedcowpro.config import AugmentConfig, LossConfig, ModelConfig, TrainConfig
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.preparation.site import Site
from fedcowpro.model.segmenter import build_model
from fedcowpro.training.loop import fit
torch.set_num_threads(2)
source = EpisodeSampler(Site.open(Path(folder) / "site"), AugmentConfig())
fit(build_model(ModelConfig(frozen_norm=True), 0), source, TrainConfig(), LossConfig(), steps=steps,
    generator=torch.Generator().manual_seed(0))
"""
HEAD = "import json, resource, sys\nfrom pathlib import Path\nif __name__ == '__main__':\n"
SETUP = "folder, count, size, steps = json.loads(sys.argv[1])\n"
TAIL = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
from ratios import peak_memory
print(max(peak_memory(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=80)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--depth", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20, help="training steps of 4 episodes")
    options = parser.parse_args()
    peaks: dict[str, list[float]] = {"prepare": [], "train": []}
    for count in (options.few, options.many):
        with tempfile.TemporaryDirectory() as folder:
            _volumes(Path(folder) / "raw", count, options.size, options.depth)
            for name, code in (("prepare", PREPARE), ("train", TRAIN)):
                peaks[name].append(_peak(code, folder, count, options.size, options.steps))
    for name, (few, many) in peaks.items():
        ratio(f"memory, {name}, {options.many} volumes", many, f"that of {options.few}", few, LIMIT, "MiB")


def _peak(code: str, folder: str, count: int, size: int, steps: int) -> float:
    """MiB."""
    script = Path(folder) / "measure.py"  # a file, because workers import it
    body = "".join(f"    {line}\n" for line in (SETUP + code + TAIL).splitlines())
    script.write_text(HEAD + body)
    arguments = json.dumps([folder, count, size, steps])
    done = subprocess.run([sys.executable, script, arguments], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def _volumes(folder: Path, count: int, size: int, depth: int) -> None:
    write_site(folder, "ct", range(min(count, 4)), size=size, depth=depth)
    rng = np.random.default_rng(0)
    for number in range(4, count):
        image = nib.load(folder / f"image_{number % 4}.nii.gz")
        voxels = np.asanyarray(image.dataobj) + rng.integers(-5, 6, image.shape, np.int16)
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), image.affine), folder / f"image_{number}.nii.gz")


if __name__ == "__main__":
    main()
