"""Install a wheel in a new environment, away from the checkout, and segment with it: `make dist`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PATIENTS = "from fedcowpro.data.phantom import write_site; write_site('scans', 'ct', [1, 2], size=128, depth=24)"
SCORE = """
import nibabel as nib, numpy as np
files = "masks/image_2_mask.nii.gz", "scans/label_2.nii.gz"
mask, truth = (np.asarray(nib.load(file).dataobj) == 1 for file in files)
dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
print(f"liver of another patient: Dice {dice:.2f}")
assert dice > 0.5
"""


def main(wheel: Path) -> None:
    """Raises CalledProcessError where a command fails or the mask is not of the organ."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")

        def run(program: str, *words: object) -> None:
            subprocess.run([str(programs / program), *map(str, words)], cwd=folder, check=True)

        run("python", "-m", "pip", "install", "--quiet", wheel)
        run("python", "-c", PATIENTS)
        run(
            "fedcowpro", "segment", "--support", "scans/image_1.nii.gz", "--support-mask", "scans/label_1.nii.gz",
            "--query", "scans/image_2.nii.gz", "--out", "masks", "--preview",
        )  # fmt: skip
        run("python", "-c", SCORE)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
