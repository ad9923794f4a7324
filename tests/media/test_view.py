"""The identities of a view: two views with the same one give the same pixels, and every field in one matters."""

import dataclasses
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import videos
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylabel.errors import InputError
from raylabel.media import image
from raylabel.media.image_views import eval_pixels, normalise, train_pixels
from raylabel.media.video_views import eval_clips, train_clip
from raylabel.media.view import Clip, View

SMALL = 1_000  # pixels: in place of MAX_PIXELS, so that the picture is larger
THIRD = (0.5, 0.25, 0.125)

# Valid values of each field.
VALUES: dict[str, list[Any]] = {
    "size": [16, 24],
    "eval_size": [0, 16, 20],
    "resize": [24, 32],
    "squash": [False, True],
    "dct_scale": [False, True],
    "max_jpeg_pixels": [4_000, 200_000_000],
    "crop": ["random_resized", "padded", "center"],
    "min_scale": [0.08, 0.5],
    "padding": [0, 4],
    "flip": [True, False],
    "interpolation": ["bilinear", "bicubic"],
    "augment": ["none", "trivial"],
    "erase": [0.0, 1.0],
    "mean": [(0.485, 0.456, 0.406), THIRD],
    "std": [(0.229, 0.224, 0.225), THIRD],
}
PICTURES = {"dct_scale": True}, {"squash": True}  # only for pictures, as are some others
OF_CLIP: dict[str, list[Any]] = {"frames": [2, 3], "stride": [1, 2], "count": [1, 2], "max_resize": [0, 24, 32, 40]}


def test_every_field_has_values():
    assert {f.name for f in dataclasses.fields(View)} == {*VALUES, "clip"}
    assert {f.name for f in dataclasses.fields(Clip)} == set(OF_CLIP)


def draw_view(data: st.DataObject, base: View | None = None) -> View:
    """A view of pictures; of `base` most fields are kept."""
    kept = set(data.draw(st.sets(st.sampled_from(list(VALUES)), max_size=3))) if base else set(VALUES)
    return replace(base or View(), **{name: data.draw(st.sampled_from(VALUES[name])) for name in sorted(kept)})


def draw_clips(data: st.DataObject, base: View | None = None) -> View:
    """A view of videos; of `base` most fields are kept."""
    view, changed = draw_view(data, base), data.draw(st.sets(st.sampled_from(list(OF_CLIP)), max_size=3))
    fields = {name: data.draw(st.sampled_from(OF_CLIP[name])) for name in sorted(changed)}
    clip = replace((base and base.clip) or Clip(), **fields)
    crop = "center" if view.crop == "center" else "random_resized"
    return replace(view, crop=crop, dct_scale=False, squash=False, interpolation="bilinear", clip=clip)


def picture() -> bytes:
    out, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(noise).resize((70, 50), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


PICTURE = picture()
VIDEO = videos.video(videos.scene(12))


def shown(pixels: np.ndarray, view: View) -> bytes:
    """What a network gets."""
    return normalise(torch.from_numpy(np.array(pixels))[None], view).contiguous().numpy().tobytes()


def of_training(view: View) -> bytes:
    make, media = (train_clip, VIDEO) if view.clip else (train_pixels, PICTURE)
    # Some operations of an augmentation change nothing.
    return b"".join(shown(make(media, view, np.random.default_rng(seed)), view) for seed in (1, 2, 3))


def of_evaluation(view: View) -> bytes:
    if view.clip:
        return b"".join(shown(clip, view) for clip in eval_clips(VIDEO, view))
    return shown(eval_pixels(PICTURE, view), view)


@pytest.mark.long
@pytest.mark.parametrize("draw", [draw_view, draw_clips])
@settings(max_examples=80)
@given(data=st.data())
def test_views_with_the_same_identity_give_the_same_pixels(draw: Callable[..., View], data: st.DataObject):
    one = draw(data)
    two = draw(data, one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "MAX_PIXELS", SMALL)
        if one.training_identity == two.training_identity:
            assert of_training(one) == of_training(two)
        if one.evaluation_identity == two.evaluation_identity:
            assert of_evaluation(one) == of_evaluation(two)


@pytest.mark.parametrize("draw", [draw_view, draw_clips])
def test_every_field_of_an_identity_changes_pixels(draw: Callable[..., View]):
    base = View(size=16, resize=24, clip=Clip(frames=2, count=1) if draw is draw_clips else None)
    changes = [{name: value} for name, values in VALUES.items() for value in values]
    if base.clip:
        changes = [c for c in changes if not c.keys() & {"crop", "interpolation"} and c not in PICTURES]
        changes += [{"clip": replace(base.clip, **{n: v})} for n, values in OF_CLIP.items() for v in values]
    bases = [base, replace(base, crop="center")]
    for view in bases if base.clip else [*bases, replace(base, crop="padded")]:
        for change in changes:
            other = replace(view, **change)
            if other.training_identity != view.training_identity:
                assert of_training(other) != of_training(view), change
            if other.evaluation_identity != view.evaluation_identity:
                assert of_evaluation(other) != of_evaluation(view), change


@pytest.mark.parametrize("clip", [None, Clip(frames=3, count=4)])
def test_a_centre_crop_trains_on_the_pixels_of_evaluation(clip: Clip | None):
    view = View(size=16, eval_size=20, resize=24, crop="center", flip=False, dct_scale=not clip, clip=clip)
    tested = replace(view, eval_size=0, dct_scale=False)
    tested = eval_clips(VIDEO, tested) if clip else [eval_pixels(PICTURE, tested)]
    make, media, found = train_clip if clip else train_pixels, VIDEO if clip else PICTURE, set()
    for seed in range(40):
        pixels = make(media, view, np.random.default_rng(seed))
        (same,) = [number for number, one in enumerate(tested) if np.array_equal(one, pixels)]
        found.add(same)
        mirrored = make(media, replace(view, flip=True), np.random.default_rng(seed))
        assert np.array_equal(mirrored, pixels) or np.array_equal(mirrored, pixels[..., ::-1, :])
    assert found == set(range(len(tested)))
    with pytest.raises(InputError, match="^view.clip.max_resize is 30, but view.crop is 'center': leave it out"):
        replace(view, dct_scale=False, clip=Clip(max_resize=30)).check("view")


def test_fields_that_training_does_not_see_are_not_in_its_identity():
    assert replace(View(), dct_scale=True, resize=300).training_identity == View().training_identity
    clips = View(clip=Clip(max_resize=340))
    assert replace(clips, clip=Clip(max_resize=340, count=3)).training_identity == clips.training_identity
    assert replace(clips, resize=300).training_identity != clips.training_identity
