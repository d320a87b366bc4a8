"""Many phantom patients as raw files: made in parallel, and kept once made.

Worker processes load this module, so it loads none of the network's libraries.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.progress import ProgressBar
from fedcowpro.data.phantom import Kind, make_phantom, write_phantom


@dataclass(frozen=True)
class Patient:
    """One volume to make.

    Attributes:
        folder: raw folder of the site.
        kind: of the phantom.
        number: seed of the phantom and case id.
        size: height and width in pixels.
        depth: slices.
    """

    folder: Path
    kind: Kind
    number: int
    size: int
    depth: int

    @property
    def image(self) -> Path:
        """File of the image."""
        return self.folder / f"image_{self.number}.nii.gz"

    @property
    def label(self) -> Path:
        """File of the label map."""
        return self.folder / f"label_{self.number}.nii.gz"

    @property
    def made(self) -> bool:
        """Whether both files are there; files appear only when they are whole."""
        return self.image.is_file() and self.label.is_file()


def make_patients(patients: Sequence[Patient], progress: bool = True) -> None:
    """Write the image and the label map of each patient that is not there yet, one process per core.

    Raises:
        FedCoWProError: a worker process ended unexpectedly.
        KeyboardInterrupt: passed on; finished volumes stay.
    """
    waiting = [patient for patient in patients if not patient.made]
    with ProgressBar(progress) as bar:
        task = bar.add_task("making volumes", total=len(patients), completed=len(patients) - len(waiting))
        workers = min(os.cpu_count() or 1, len(waiting))
        if workers < 2:
            for patient in waiting:
                _make(patient)
                bar.advance(task)
            return
        # Spawned, because forking a process that runs threads (the progress bar's) can lock up.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_DFL)) as pool:
            futures = [pool.submit(_make, patient) for patient in waiting]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.advance(task)
            except BrokenProcessPool as error:
                raise FedCoWProError(
                    "a worker process ended unexpectedly while it made a phantom",
                    "about 1 GB of memory per core",
                    "run the same command again; finished volumes are kept",
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _make(patient: Patient) -> None:
    partial = patient.folder / f".{patient.number}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    phantom = make_phantom(patient.kind, patient.number, patient.size, patient.depth)
    image, label = write_phantom(phantom, partial, str(patient.number))
    os.replace(label, patient.label)
    os.replace(image, patient.image)
    partial.rmdir()
