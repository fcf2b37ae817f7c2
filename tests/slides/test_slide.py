import itertools
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from myostage.errors import UserError
from myostage.slides import readers
from myostage.slides.checking import check_slides
from myostage.slides.slide import all_readers, open_slide, read_labels, read_picture
from myostage.study.inputs import SlideRow
from support import bombs
from support.slide_files import real, smooth_noise, write_pyramid

PIXELS = smooth_noise(300, 420)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tif", PIXELS, 0.5, levels=3)


def row(slide: str, path: Path, mpp: float | None = None) -> SlideRow:
    return SlideRow(slide=slide, path=str(path), group="d3", animal="a1", mpp=mpp, annotations=None)


def test_pyramid_facts_and_exact_pixels_at_its_own_resolution(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        facts = (slide.reader, slide.mpp_source, slide.levels, slide.width_px, slide.height_px)
        assert facts == ("openslide", "file", 3, 420, 300)
        assert slide.mpp == pytest.approx(0.5, rel=1e-6)
        np.testing.assert_array_equal(slide.read(130, 70, 100, 90, slide.mpp), PIXELS[70:160, 130:230])


def test_table_resolution_wins_over_the_file(pyramid: Path) -> None:
    with open_slide(pyramid, 1.0) as slide:
        assert (slide.mpp, slide.mpp_source, slide.size(2.0)) == (1.0, "table", (210, 150))


def test_outside_is_white_and_the_rest_in_place(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        window = slide.read(-20, 280, 50, 40, slide.mpp)
        assert (window[:, :20] == 255).all() and (window[20:] == 255).all()
        np.testing.assert_array_equal(window[:20, 20:], PIXELS[280:, :30])
        assert (slide.read(1000, 1000, 8, 8, slide.mpp) == 255).all()


@pytest.mark.parametrize("mpp", [0.25, 0.7, 1.0, 1.3, 3.9])
def test_resampled_pixels_are_where_they_belong(pyramid: Path, mpp: float) -> None:
    """Against the picture's own continuous function: a shift of one source pixel would show."""
    with open_slide(pyramid) as slide:
        width, height = slide.size(mpp)
        found = slide.read(0, 0, width, height, mpp).astype(float)
    factor = mpp / 0.5
    centres_y, centres_x = ((np.arange(n) + 0.5) * factor - 0.5 for n in (height, width))
    y, x = np.rint(centres_y).astype(int).clip(0, 299), np.rint(centres_x).astype(int).clip(0, 419)
    expected = PIXELS[y][:, x].astype(float)
    inner = np.s_[2:-2, 2:-2]
    assert np.corrcoef(found[inner].ravel(), expected[inner].ravel())[0, 1] > (0.99 if factor < 3 else 0.95)
    assert np.abs((found - expected)[inner].mean()) < 1


@given(x=st.integers(-30, 130), y=st.integers(-30, 100), mpp=st.sampled_from([0.4, 0.81, 1.0, 1.9, 4.7]))
def test_a_pixel_does_not_depend_on_its_window(pyramid: Path, x: int, y: int, mpp: float) -> None:
    with open_slide(pyramid) as slide:
        whole = slide.read(-40, -40, 300, 300, mpp)
        window = slide.read(x, y, 37, 23, mpp)
        difference = np.abs(window - whole[y + 40 : y + 63, x + 40 : x + 77].astype(int))
        # The filter rounds in each of its two passes.
        assert difference.max() <= 2 and difference.mean() < 0.3


def test_large_reductions_are_pieced_together_within_bounded_memory(
    pyramid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_slide(pyramid) as slide:
        at_once = slide.read(0, 0, *slide.size(2.9), 2.9)
        sides: list[int] = []
        region = slide._file.region

        def watched(level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
            sides.append(max(w, h))
            return region(level, x, y, w, h)

        monkeypatch.setattr("myostage.slides.slide._SOURCE_PX", 32)
        monkeypatch.setattr(slide._file, "region", watched)
        pieces = slide.read(0, 0, *slide.size(2.9), 2.9)
    assert len(sides) > 4 and max(sides) < 60
    assert np.abs(pieces.astype(int) - at_once).max() <= 2


@pytest.mark.parametrize("kind", ["strips", "one strip", "tiles", "jpeg strips", "grey", "rgba", "imagej"])
def test_tiffs_by_tifffile(tmp_path: Path, kind: str) -> None:
    """What OpenSlide does not open: strips, and tiles in a compression it lacks."""
    path, pixels = tmp_path / "slide.tif", PIXELS
    options: dict = {"photometric": "rgb", "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    if kind == "grey":
        pixels, options["photometric"] = PIXELS[..., 0], "minisblack"
    if kind == "rgba":
        alpha = np.where(np.arange(420) < 100, 0, 255).astype(np.uint8)
        pixels = np.dstack([PIXELS, np.broadcast_to(alpha, (300, 420))])
        options["extrasamples"] = ["unassalpha"]
    if kind == "imagej":
        options |= {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}}
        del options["resolutionunit"]
    options |= {
        "strips": {"rowsperstrip": 7},
        "one strip": {"rowsperstrip": 300, "compression": "deflate"},
        "tiles": {"tile": (64, 96), "compression": "lzma"},
        "jpeg strips": {"rowsperstrip": 16, "compression": "jpeg", "compressionargs": {"level": 98}},
    }.get(kind, {})
    tifffile.imwrite(path, pixels, **options)
    with open_slide(path) as slide:
        assert (slide.reader, slide.width_px, slide.height_px) == ("tiff", 420, 300)
        assert slide.mpp == pytest.approx(0.5, rel=1e-6)
        window = slide.read(50, 33, 200, 150, slide.mpp)
    expected = PIXELS[33:183, 50:250].copy()
    if kind == "grey":
        expected = np.repeat(expected[..., :1], 3, axis=2)
    if kind == "rgba":
        expected[:, :50] = 255
    assert np.abs(window.astype(int) - expected).mean() <= (2 if "jpeg" in kind else 0)


def test_plain_image_needs_a_resolution(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "section.png", dpi=(96, 96))
    with pytest.raises(UserError, match=r"section\.png: the file has no resolution; .* column mpp"):
        open_slide(tmp_path / "section.png")
    with open_slide(tmp_path / "section.png", 1.0) as slide:
        assert slide.reader == "image"
        np.testing.assert_array_equal(slide.read(5, 6, 20, 30, 1.0), PIXELS[6:36, 5:25])
        assert max(slide.thumbnail(100).shape) == 100


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / "slide.tif"
    if kind == "empty":
        path.touch()
    if kind == "text":
        path.write_text("slide\tpath\n")
    if kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (300, 420, 3), np.uint8)
        whole = write_pyramid(folder / "whole.tif", noise, 0.5).read_bytes()
        path.write_bytes(whole[: int(0.7 * len(whole))])
    if kind == "deep":
        tifffile.imwrite(path, PIXELS.astype(np.uint16), photometric="rgb")
    if kind == "printer":
        tifffile.imwrite(path, PIXELS, photometric="rgb", resolution=(72, 72), resolutionunit="INCH")
    if kind == "oblong":
        resolution = {"resolution": (20000, 10000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, PIXELS, photometric="rgb", **resolution)
    if kind == "folder":
        path.mkdir()
    return path


BAD = {
    "missing": "no such file or directory; correct column path",
    "empty": "the file is empty",
    "text": "no PNG or JPEG or slide or TIFF that can be opened",
    "truncated": "damaged",
    "deep": "cannot be opened .*RGB uint16.*not 8-bit RGB",
    "printer": r"says 352\.8 um/px, outside 0\.05 to 5; .*column mpp",
    "oblong": r"0\.5 um/px across and 1 down",
    "folder": "is a directory",
}


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_slide_has_its_own_reason(tmp_path: Path, kind: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(UserError, match=BAD[kind]) as error, open_slide(path) as slide:
        slide.probe()
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.real
def test_real_slides(tmp_path: Path) -> None:
    aperio, j2k = real("slides/cmu-1-small-region.svs"), real("slides/tcga-cr-7395-01a-01-ts1.svs")
    with pytest.raises(UserError, match=r"tcga.*no resolution"):
        open_slide(j2k)
    rows = [row("cmu", aperio), row("tcga", j2k, 0.25)]
    frame = check_slides(rows, on_bad_slide="fail", out=tmp_path / "slides.parquet", thumbnails={})
    facts = ["reader", "width_px", "height_px", "mpp", "mpp_source", "levels"]
    assert frame[facts].to_numpy().tolist() == [
        ["openslide", 2220, 2967, 0.499, "file", 1],
        ["openslide", 4443, 3567, 0.25, "table", 2],
    ]
    # The smaller level shows the same place, within a pixel of the larger one.
    with open_slide(j2k, 0.25) as slide:
        small = slide.read(900, 700, 150, 150, 0.5).astype(int)
        large = slide.read(1797, 1397, 306, 306, 0.25)

    def misfit(x: int, y: int) -> float:
        moved = large[y : y + 300, x : x + 300].reshape(150, 2, 150, 2, 3).mean(axis=(1, 3))
        return float(np.abs(small - moved).mean())

    best = min(itertools.product(range(7), range(7)), key=lambda at: misfit(*at))
    assert max(abs(best[0] - 3), abs(best[1] - 3)) <= 1


@pytest.mark.real
def test_real_fields_and_section() -> None:
    with open_slide(real("muscle-fibres/fibres_01.tif"), 0.2773) as field:
        whole = tifffile.imread(field.path)
        assert (field.reader, field.width_px, field.height_px) == ("tiff", 1002, 1002)
        np.testing.assert_array_equal(field.read(300, 411, 256, 256, field.mpp), whole[411:667, 300:556])
    with open_slide(real("muscle-section/section.jpg"), 1.0) as section:
        assert (section.reader, section.width_px, section.height_px) == ("image", 3209, 3905)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("planes", {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "ome": True}),
        ("pages", {"photometric": "minisblack"}),
        ("deep", {"photometric": "rgb"}),
    ],
)
def test_what_a_decoder_would_guess_at_is_refused(
    tmp_path: Path, kind: str, options: dict, tiled: bool
) -> None:
    """Planes read as grey, 12 bits of 16 as black: strips and tiles, slides and crops alike."""
    path = tmp_path / "slide.tif"
    pixels = PIXELS[:256, :416].astype(np.uint16) * 16 if kind == "deep" else PIXELS[:256, :416]
    if kind != "deep":
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, pixels, **options, **({"tile": (64, 64)} if tiled else {}))
    for read in (partial(open_slide, mpp=1.0), partial(read_picture, named_in="the table")):
        with pytest.raises(UserError, match=r"cannot be opened .* not (8-bit RGB|RGB in one)"):
            read(path)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("alpha", ["unspecified", "assocalpha", "unassalpha"])
def test_a_fourth_channel_is_what_the_file_says(tmp_path: Path, alpha: str, tiled: bool) -> None:
    path = tmp_path / "slide.tif"
    fourth = np.broadcast_to(np.array([0, 255], np.uint8).repeat(208), (256, 416))
    seen = PIXELS[:256, :416] // (1 if alpha != "assocalpha" else 2)
    colours = np.where(fourth[..., None] > 0, seen, 0 if alpha == "assocalpha" else seen)
    tile = {"tile": (64, 64)} if tiled else {}
    tifffile.imwrite(path, np.dstack([colours, fourth]), photometric="rgb", extrasamples=[alpha], **tile)
    expected = seen if alpha == "unspecified" else np.where(fourth[..., None] > 0, seen, 255)
    np.testing.assert_array_equal(read_picture(path, "the table"), expected)


def test_a_png_of_16_bits_per_channel_is_refused(tmp_path: Path) -> None:
    """Pillow reads the upper 8 bits without a word: 12 of 16 would be nearly black."""
    path = tmp_path / "deep.png"
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(PIXELS, np.uint16) * 16))
    with pytest.raises(UserError, match="16 bits per channel, not 8-bit RGB"):
        open_slide(path, 1.0)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "psd", "eps", "webp"])
def test_other_formats_are_refused_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "picture.png"
    if suffix == "psd":
        path.write_bytes(b"8BPS" + bytes(60))
    else:
        Image.fromarray(PIXELS).save(path, suffix)
    for read in (partial(open_slide, mpp=1.0), partial(read_picture, named_in="the table")):
        with pytest.raises(UserError, match="no PNG or JPEG or slide or TIFF that can be opened"):
            read(path)
    with pytest.raises(UserError, match="no PNG or JPEG or TIFF that can be opened"):
        read_labels(path, "the table")


@pytest.mark.parametrize("kind", ["png", "tif", "tiles", "palette"])
def test_label_images_keep_their_numbers(tmp_path: Path, kind: str) -> None:
    labels = (np.arange(64 * 96).reshape(64, 96) % (200 if kind == "palette" else 60000)).astype(np.uint16)
    path = tmp_path / "labels"
    if kind == "png":
        Image.fromarray(labels).save(path, "PNG")
    elif kind == "palette":
        picture = Image.fromarray(labels.astype(np.uint8), "L")
        picture.putpalette(list(range(256)) * 3)
        picture.save(path, "PNG")
    else:
        tile = {"tile": (16, 32), "compression": "deflate"} if kind == "tiles" else {}
        tifffile.imwrite(path, labels, byteorder=">", **tile)
    np.testing.assert_array_equal(read_labels(path, "the table"), labels)


@pytest.mark.parametrize("kind", ["rgb", "jpeg", "float", "negative"])
def test_label_images_without_whole_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "labels"
    if kind in ("rgb", "jpeg"):
        Image.fromarray(PIXELS if kind == "rgb" else PIXELS[..., 0]).save(
            path, "PNG" if kind == "rgb" else kind
        )
    else:
        tifffile.imwrite(path, -np.ones((8, 8), np.float32 if kind == "float" else np.int32))
    with pytest.raises(UserError, match="save the label image as a 16-bit"):
        read_labels(path, "the table")


@pytest.mark.parametrize(("width", "height"), [(2_000_000, 16), (600_000, 600_000)])
def test_sizes_beyond_any_slide_are_refused(tmp_path: Path, width: int, height: int) -> None:
    path = bombs.tiff(tmp_path / "slide.tif", width, height, bytes(2**23), 1)
    with pytest.raises(UserError, match="more than any slide"):
        open_slide(path, 1.0)


def test_windows_that_do_not_fit_into_memory_are_refused(pyramid: Path) -> None:
    with open_slide(pyramid) as slide, pytest.raises(UserError, match="too many to hold at once"):
        slide.read(0, 0, 30_000, 30_000, 0.5)


def test_another_reader_is_one_more_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grey_card.py").write_text(
        "from myostage.slides.reader import OtherFormat, Reader\n"
        "from myostage.slides.readers.image import Picture\n"
        "def open_file(path):\n"
        "    if path.suffix != '.card':\n"
        "        raise OtherFormat\n"
        "    return Picture(path.with_suffix('.png'))\n"
        "READER = Reader(name='grey_card', formats='card', place=0, open=open_file)\n"
    )
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path)])
    all_readers.cache_clear()
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    (tmp_path / "one.card").write_text("see one.png")
    (tmp_path / "two.card.txt").write_text("of no format")
    with open_slide(tmp_path / "one.card", 1.0) as slide:
        assert (slide.reader, slide.width_px, slide.height_px) == ("grey_card", 420, 300)
    with pytest.raises(UserError, match="no card or PNG or JPEG or slide or TIFF that can be opened"):
        open_slide(tmp_path / "two.card.txt", 1.0)
    monkeypatch.undo()
    all_readers.cache_clear()
