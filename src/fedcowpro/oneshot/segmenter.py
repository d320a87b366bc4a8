"""`OneShotSegmenter`: one annotated volume segments others, in a few lines of Python."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.core.device import choose_device
from fedcowpro.core.errors import FedCoWProError, NotFittedError
from fedcowpro.core.progress import ProgressBar
from fedcowpro.model.checkpoint import save_checkpoint
from fedcowpro.oneshot.annotation import Annotation, read_example
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.extent import Extent, read_extents
from fedcowpro.oneshot.fine_tuning import fine_tune
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.oneshot.organ_model import OrganModel, is_organ_model
from fedcowpro.oneshot.organ_names import Organs, names_of
from fedcowpro.oneshot.prediction import Prediction, Predictions
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import Example, Support, encode_example, join_examples
from fedcowpro.training.adapt import adapt_to, interrupt_sets
from fedcowpro.volume.accept import Given, Order, Painted, as_volume, as_volumes, several
from fedcowpro.volume.preprocess import modality_of
from fedcowpro.volume.volume import Volume


class OneShotSegmenter:
    """Segments volumes like an annotated one; no labels and no GPU are needed to adapt it to volumes of one's own.

    Images are nibabel images; paths of NIfTI, NRRD or MetaImage files; folders with one DICOM series; or NumPy arrays
    with `spacing` in mm along their own axes. An array's `order` is 'zyx' = (depth, height, width) growing to Superior,
    Posterior and Left, or 'xyz' = nibabel's (right, anterior, superior); where it is not given it is told from shape
    and spacing, and asked for where these do not tell it. Results lie on the image's own axes. As in scikit-learn, the
    constructor only keeps its parameters and attributes that are learnt or loaded end with an underscore; `set_params`
    forgets them.

    Args:
        model: checkpoint file or run folder; None = the model that comes with the package.
        modality: 'ct' or 'mr' for all volumes; None = told from their values.
        spacing: mm per pixel of slices that are compared with the example; None = the annotated volume's own.
        organs: label values to segment, with names or without: [1, 2], {'liver': 1}, or ['liver', 'spleen'] for the
            labels 1 and 2; None = all that the masks show.
        inference: fields of `InferConfig` to use instead of the model's, as {'threshold': 0.5}.
        device: what computes: 'cpu', 'cuda', 'cuda:1' or 'mps'; 'auto' = the first CUDA device that works, or cpu.

    Attributes:
        loaded_: the model, with its settings.
        support_: prototypes of the annotated volumes.
        n_steps_: training steps of all calls of `fit`.
        organ_model_: the fine-tuned network, after `finetune` or where `model` is one.

    Example:
        >>> segmenter = OneShotSegmenter.load()
        >>> segmenter.set_support("p1.nii.gz", "p1_liver.nii.gz").predict("p2.nii.gz").save("p2_liver.nii.gz")
    """

    loaded_: Loaded
    support_: Support
    n_steps_: int
    organ_model_: OrganModel

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        modality: Modality | None = None,
        spacing: float | None = None,
        organs: Organs | None = None,
        inference: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.modality = modality
        self.spacing = spacing
        self.organs = organs
        self.inference = inference
        self.device = device

    @classmethod
    def load(cls, model: str | PathLike[str] | None = None, **parameters: Any) -> Self:
        """A segmenter whose model is read now, so that a mistake in it shows at once.

        Raises:
            FedCoWProError: unreadable or altered files, or invalid settings.
        """
        segmenter = cls(model, **parameters)
        if segmenter._organ_model() is None:
            segmenter._ready()
        return segmenter

    def fit(
        self,
        volumes: str | PathLike[str] | Sequence[Given],
        *,
        steps: int = 200,
        seed: int = 0,
        spacing: Sequence[float] | None = None,
        order: Order | None = None,
        progress: bool = True,
    ) -> Self:
        """Adapt the network to unlabelled volumes, self-supervised; goes on from where the model is.

        Ctrl-C ends it after the step under way, and the model is usable. Annotated volumes that were set before stay; a
        network that `finetune` made of them is forgotten.

        Args:
            volumes: a folder or pattern, or a list of images; all are taken for one site.
            steps: of training; about a second each on one core.
            seed: of all random draws: same volumes, steps, seed and threads, same model.
            spacing, order: of the arrays among them.
            progress: bars on standard error.

        Raises:
            FedCoWProError: no volume, one that cannot be used, or training diverged.
        """
        if steps < 1:
            raise FedCoWProError(f"steps={steps}", "at least 1", "give the number of training steps")
        loaded = self._ready()
        done = adapt_to(
            loaded.predictor.model, volumes, self._site_config(),
            steps=steps, seed=seed, spacing=spacing, order=order, bars=progress,
        )  # fmt: skip
        self.__dict__.pop("organ_model_", None)  # it began with the encoder before
        self.n_steps_ = getattr(self, "n_steps_", 0) + done
        self._fits = [*getattr(self, "_fits", []), {"steps": done, "asked": steps, "seed": seed}]
        if hasattr(self, "support_"):
            before = self.support_.examples
            del self.support_  # made of features that are out of date
            examples: list[Example] = []
            for old in before:
                self.support_ = self._joined(examples, old.encoded.volume, old.annotation)
                examples = list(self.support_.examples)
        return self

    def finetune(
        self,
        unlabelled: Given | Sequence[Given] = (),
        *,
        minutes: float | None = 10.0,
        steps: int | None = None,
        seed: int = 0,
        spacing: Sequence[float] | None = None,
        order: Order | None = None,
        progress: bool = True,
    ) -> Self:
        """Teach a network the organs of the annotated volumes, and let it learn from its own labels of others.

        Afterwards `predict` uses that network, and `save` writes it. Ctrl-C ends after the step under way, and the
        network is usable. A new annotated volume forgets it.

        Args:
            unlabelled: volumes without annotation, best those that will be asked about: an image, a folder or pattern,
                or a list of images. Annotated volumes among them are passed over.
            minutes: longest time for everything; a slow machine makes fewer steps for it.
            steps: of training in all, instead of minutes: same volumes, steps, seed and threads, same network.
            seed: of all random draws.
            spacing, order: of the arrays among them.
            progress: a bar on standard error.

        Raises:
            NotFittedError: no annotated volume is set.
            FedCoWProError: volumes that cannot be used, or another encoder than lite0.
        """
        if not hasattr(self, "support_"):
            raise NotFittedError("finetune before set_support", "an annotated volume", "call set_support(image, mask)")
        given = [] if isinstance(unlabelled, tuple | list) and not unlabelled else several(unlabelled)
        own = [one.encoded.volume for one in self.support_.examples]
        read = as_volumes([unlabelled] if given is None else given, spacing, order)  # type: ignore[list-item]
        others = [volume for volume in read if not any(_same(volume, one) for one in own)]
        with interrupt_sets() as stop, ProgressBar(progress) as bar:
            task = bar.add_task("fine-tuning", total=None)
            self.organ_model_ = fine_tune(
                self._ready(),
                [(one.encoded.volume, one.annotation) for one in self.support_.examples],
                others,
                organs=self._names_of_support(),
                modality=self.modality,
                minutes=minutes,
                steps=steps,
                seed=seed,
                on_step=lambda step: bar.update(task, completed=step.step, total=step.steps),
                stop=stop.is_set,
            )
        return self

    def set_support(
        self,
        image: Given,
        mask: Given,
        *,
        spacing: Sequence[float] | None = None,
        order: Order | None = None,
        painted: Painted | None = None,
        extent: Mapping[int | str, Extent] | None = None,
    ) -> Self:
        """Take this annotated volume as the only example.

        Args:
            image: the volume.
            mask: its label map: 0 background, 1..255 organs; an array lies on the image's own axes.
            spacing, order: of an array, along its own axes.
            painted: slices that are annotated, by number along the image's own axis through the slices, or 'labelled'
                for those with a label; the others are unknown. 'all' = all are annotated; None = all, or the only one
                that has labels (see `known_slices`); where `extent` is given, None = 'labelled'.
            extent: per organ, by label value or name, its first and last slice as {1: (12, 40)}, numbered as `painted`
                is; or mm as ('-30mm', '55.5mm'), the place along the axis to the head; None for an end that is not
                known. It says of that organ alone that it is nowhere beyond, which makes masks much better where few
                slices are painted.

        Raises:
            FedCoWProError: an image and a mask that do not match, an empty mask, or what cannot be read.
        """
        example = read_example(
            image, mask, spacing=spacing, order=order, painted=painted, extent=extent, names=names_of(self.organs)
        )
        self.support_ = self._joined([], *example)
        self.__dict__.pop("organ_model_", None)
        return self

    def add_support(
        self,
        image: Given,
        mask: Given,
        *,
        spacing: Sequence[float] | None = None,
        order: Order | None = None,
        painted: Painted | None = None,
        extent: Mapping[int | str, Extent] | None = None,
    ) -> Self:
        """Take one more annotated volume, or a better annotation of one; arguments as for `set_support`."""
        volume, annotation = read_example(
            image, mask, spacing=spacing, order=order, painted=painted, extent=extent, names=names_of(self.organs)
        )
        before = self.support_.examples if hasattr(self, "support_") else ()
        others = [old for old in before if not _same(old.encoded.volume, volume)]
        self.support_ = self._joined(others, volume, annotation)
        self.__dict__.pop("organ_model_", None)
        return self

    def predict(
        self,
        volume: Given | Sequence[Given],
        *,
        spacing: Sequence[float] | None = None,
        order: Order | None = None,
        extent: Mapping[int | str, Extent] | None = None,
        probabilities: bool | None = None,
    ) -> Prediction | Predictions:
        """Segment a volume, or several. In a partly annotated volume, the painted slices are what was painted.

        After `finetune`, or where the model is a fine-tuned one, its network segments all slices, without the example.

        Args:
            volume: an image; or for several a list of images, a folder of them, or a pattern as `scans/*.nii.gz`.
            spacing, order: of an array, along its own axes.
            extent: ends of organs in the one volume, where they are known, as for `set_support`: no mask lies beyond.
            probabilities: whether to give them, too; they take time and memory. None = of one volume, not of several.

        Returns:
            A `Prediction`, or a list of them with a table.

        Raises:
            NotFittedError: no annotated volume is set.
            FedCoWProError: a volume cannot be read or used; of several, missing files are told before the first one.
        """
        if self._organ_model() is None and not hasattr(self, "support_"):
            raise NotFittedError("predict before set_support", "an annotated volume", "call set_support(image, mask)")
        images = several(volume)
        if images is None:
            image = as_volume(volume, spacing, order=order)  # type: ignore[arg-type]
            return self._predict(image, extent, probabilities is not False)
        if extent:
            raise FedCoWProError(
                f"an extent and {len(images)} volumes", "one volume, whose slices it numbers", "give them one by one"
            )
        each = as_volumes(images, spacing, order)
        return Predictions(self._predict(image, None, probabilities is True) for image in each)

    def _predict(self, image: Volume, extent: Mapping[int | str, Extent] | None, probabilities: bool) -> Prediction:
        names = names_of(self.organs)
        if self._organ_model() is not None:
            names = self.organ_model_.names | {value: name for value, name in names.items() if name}
            ends = read_extents(extent, image, names)
            fine = self.organ_model_.segment(image, self.modality, extents=ends, probabilities=probabilities)
            return Prediction.of(fine, image, names)
        loaded = self._ready()
        encoded = self._known(image) or encode_volume(
            loaded.predictor, image, self._config(image), pixel=self.support_.pixel, size=self.support_.size
        )
        ends = read_extents(extent, image, names)
        found = segment_encoded(loaded.predictor, self.support_, encoded, extents=ends, probabilities=probabilities)
        return Prediction.of(found, image, names)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the model, adapted or not, to `path` (.safetensors) and its card beside it; `load` reads them.

        Annotated volumes are not part of it.

        Raises:
            FedCoWProError: another file ending.
        """
        target = Path(path)
        if target.suffix != ".safetensors":
            raise FedCoWProError(f"model file {target}", "a name ending with .safetensors", "choose such a name")
        if self._organ_model() is not None:
            return self.organ_model_.save(target)
        loaded = self._ready()
        kept = {name: value for name, value in loaded.card.items() if name not in ("format", "versions")}
        adapted = [*kept.pop("adapted", []), *getattr(self, "_fits", [])]
        card = kept | {"inference": loaded.predictor.config.model_dump(mode="json"), "adapted": adapted}
        save_checkpoint(target, loaded.predictor.model.state_dict(), card)
        return target

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self)).parameters)}

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters and forget what was loaded, fitted and annotated.

        Raises:
            FedCoWProError: an unknown name.
        """
        known = self.get_params()
        if unknown := sorted(set(parameters) - set(known)):
            raise FedCoWProError(f"parameter '{unknown[0]}'", f"one of: {', '.join(known)}", "correct the name")
        for name in [name for name in vars(self) if name not in known]:
            delattr(self, name)
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        given = [f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name].default]
        return f"{type(self).__name__}({', '.join(given)})"

    def _organ_model(self) -> OrganModel | None:
        """The fine-tuned network, where there is one; the model's card is looked at until something is loaded."""
        nothing = not hasattr(self, "organ_model_") and not hasattr(self, "loaded_")
        if nothing and self.model is not None and is_organ_model(Path(self.model)):
            if self.spacing is not None or self.inference:
                got = f"spacing or inference with {self.model}, a fine-tuned network"
                raise FedCoWProError(got, "neither: they are of comparing with an example", "leave them out")
            model = OrganModel.load(Path(self.model), choose_device(self.device))
            model.require_names(names_of(self.organs))
            self.organ_model_ = model
        return getattr(self, "organ_model_", None)

    def _ready(self) -> Loaded:
        if not hasattr(self, "loaded_"):
            if self.model is not None and is_organ_model(Path(self.model)):
                raise FedCoWProError(
                    f"{self.model}, a network for its own organs", "a federated model, which takes examples",
                    "call predict at once, or start from another model",
                )  # fmt: skip
            path = None if self.model is None else Path(self.model)
            self.loaded_ = load_predictor(path, self.inference, device=choose_device(self.device))
        return self.loaded_

    def _config(self, volume: Volume) -> PrepareConfig:
        config = self._ready().prepare[modality_of(volume, self.modality)]
        return config if self.spacing is None else config.model_copy(update={"spacing": self.spacing})

    def _site_config(self) -> PrepareConfig:
        """Volumes of both kinds, each prepared as the model's card says."""
        ct, mr = (self._ready().prepare[kind] for kind in ("ct", "mr"))
        changes = {"modality": self.modality, "spacing": self.spacing or ct.spacing, "percentile": mr.percentile}
        return ct.model_copy(update=changes)

    def _joined(self, others: Sequence[Example], volume: Volume, annotation: Annotation) -> Support:
        """Annotated volumes and one more, which follows the first one's pixels."""
        predictor, config, organs = self._ready().predictor, self._config(volume), names_of(self.organs)
        annotation.require_organs(organs)
        first = others[0].encoded.placement if others else None
        pixel, size = (first.pixel, first.size) if first is not None else (None, None)
        example = encode_example(predictor, volume, annotation, config, organs=organs, pixel=pixel, size=size)
        return join_examples(predictor, [*others, example])

    def _known(self, volume: Volume) -> EncodedVolume | None:
        """The features of a partly annotated volume, if this is one: it need not be encoded again."""
        examples = (example for example in self.support_.examples if not example.annotation.is_whole)
        return next((one.encoded for one in examples if _same(one.encoded.volume, volume)), None)

    def _names_of_support(self) -> dict[int, str]:
        """Names by label value of all organs that the annotated volumes show, '' where there is none."""
        return dict.fromkeys(self.support_.organs, "") | names_of(self.organs)


def _same(one: Volume, other: Volume) -> bool:
    return np.array_equal(one.grid.affine, other.grid.affine) and np.array_equal(one.voxels, other.voxels)
