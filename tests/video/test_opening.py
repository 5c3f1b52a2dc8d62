"""Which stream of a file is read, playlists, and what can't be opened."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from videos import decode_everything, ffmpeg, moving_pictures, write_video

from timesformer_jax import probe, read_clip, read_frames
from timesformer_jax.errors import VideoError
from timesformer_jax.video.notices import SeveralStreamsWarning
from timesformer_jax.video.packets import EncodedVideo, FileStream
from timesformer_jax.video.streaming import stream_clips

FILM, COVER = moving_pictures(20, 32, 48, seed=1), moving_pictures(2, 16, 24, seed=2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A film, a thumbnail of one frame a second, and a picture for the cover."""
    folder = tmp_path_factory.mktemp("parts")
    film, small = write_video(folder / "film.mkv", FILM), write_video(folder / "small.mkv", COVER, fps=1)
    cover = folder / "cover.png"
    ffmpeg("-i", small, "-frames:v", "1", cover)
    return film, small, cover


def join(target: Path, *sources: Path, options: str = "") -> Path:
    inputs = [word for source in sources for word in ("-i", source)]
    maps = [word for number in range(len(sources)) for word in ("-map", f"{number}:v")]
    ffmpeg(*inputs, *maps, "-c", "copy", *options.split(), target)
    return target


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # Matroska and MP4 mark streams, the others do not: there FFmpeg's rule takes the one of more frames.
        ("a.mkv", "-disposition:0 0 -disposition:1 default", 1),
        ("a.mkv", "-disposition:0 default -disposition:1 0", 0),
        ("a.mp4", "-disposition:0 0 -disposition:1 default", 1),
        ("a.mp4", "-disposition:0 default -disposition:1 0", 0),
        ("a.mkv", "-disposition:0 0 -disposition:1 0", 1),
        ("a.mkv", "-disposition:0 default -disposition:1 default", 1),
        ("a.ts", "", 1),
        ("a.flv", "", 1),
    ],
)
def test_the_stream_that_is_marked_or_best(
    name: str, options: str, expected: int, parts: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    film, small, _ = parts
    path = join(tmp_path / name, small, film, options=options)
    with pytest.warns(SeveralStreamsWarning, match=rf"0 \(24x16\), 1 \(48x32\); number {expected} is read") as caught:
        info = probe(path)
    assert len(caught) == 1
    assert (info.frames, info.height) == [(2, 16), (20, 32)][expected]
    for number, source in enumerate((small, film)):
        chosen = FileStream(path, number)
        expected_frames = decode_everything(source)
        np.testing.assert_array_equal(read_frames(chosen, range(len(expected_frames))), expected_frames)
        clips = list(stream_clips(chosen, lambda total, _: np.arange(total)[None], np.copy))
        np.testing.assert_array_equal(clips[0], expected_frames)


def test_a_cover_picture_is_never_the_video(parts: tuple[Path, Path, Path], tmp_path: Path) -> None:
    film, _, cover = parts
    attached = tmp_path / "attached.mkv"
    ffmpeg("-i", film, "-attach", cover, "-metadata:s:t", "mimetype=image/png", "-c", "copy", attached)
    assert probe(attached).frames == len(FILM)
    for name in ("a.mp4", "a.m4v"):
        path = join(tmp_path / name, cover, film, options="-disposition:0 attached_pic -disposition:1 0")
        with av.open(str(path)) as container:
            number = [bool(stream.disposition & Disposition.attached_pic) for stream in container.streams.video].index(
                True
            )
        assert probe(path).frames == len(FILM)
        assert probe(FileStream(path, 1 - number)).frames == len(FILM)
        with pytest.raises(VideoError, match=f"has no video stream {number} that can be decoded, but {1 - number}"):
            probe(FileStream(path, number))


def test_animated_avif_is_no_still(tmp_path: Path) -> None:
    """Its still comes first, and is marked as much as the animation is."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10", "-t", "1", "-c:v", "libaom-av1", tmp_path / "a.avif")
    with pytest.warns(SeveralStreamsWarning, match="number 1 is read"):
        assert probe(tmp_path / "a.avif").frames == 10


def test_a_stream_that_is_not_there(parts: tuple[Path, Path, Path]) -> None:
    for number in (1, -1, 7):
        with pytest.raises(VideoError, match=rf"film\.mkv has no video stream {number} that can be decoded, but 0\."):
            read_clip(FileStream(parts[0], number), 4)
    assert read_clip(FileStream(parts[0], 0), 4).shape == (4, 32, 48, 3)


# Playlists


@pytest.fixture(scope="module")
def playlist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finite one, of three parts."""
    path = tmp_path_factory.mktemp("hls") / "film.m3u8"
    source = "testsrc2=size=48x32:rate=10"
    encode = ("-t", "3", "-c:v", "mpeg2video", "-g", "10", "-bf", "0")
    ffmpeg("-f", "lavfi", "-i", source, *encode, "-hls_time", "1", "-hls_list_size", "0", path)
    return path


def test_a_finite_playlist_is_read(playlist: Path) -> None:
    assert probe(playlist).frames == 30
    np.testing.assert_array_equal(read_frames(playlist, [0, 11, 29]), decode_everything(playlist)[[0, 11, 29]])
    master = playlist.with_name("master.m3u8")
    master.write_text(f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n{playlist.name}\n")
    assert probe(master).frames == 30


@pytest.mark.parametrize("kind", ["as it is", "an event", "through another", "windows line ends", "in memory"])
def test_a_live_stream_is_refused(kind: str, playlist: Path) -> None:
    lines = [line for line in playlist.read_text().splitlines() if line != "#EXT-X-ENDLIST"]
    if kind == "an event":
        lines.insert(1, "#EXT-X-PLAYLIST-TYPE:EVENT")
    live = playlist.with_name("live.m3u8")
    live.write_text(("\r\n" if kind == "windows line ends" else "\n").join(lines))
    video = live
    if kind == "through another":
        video = playlist.with_name("master live.m3u8")
        video.write_text(f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n{live.name}\n")
    if kind == "in memory":
        text = live.read_text().replace("film", "https://example.invalid/film")
        with pytest.raises(VideoError, match="is a playlist of a live stream"):
            probe(EncodedVideo("https://example.invalid/live.m3u8", text.encode()))
        return
    for read in (probe, lambda path: next(stream_clips(path, lambda *_: np.zeros((1, 1), int), np.copy))):
        with pytest.raises(VideoError, match=r"live\.m3u8 is a playlist of a live stream, which has no end"):
            read(video)


def test_a_playlist_of_what_is_elsewhere(playlist: Path) -> None:
    text = playlist.read_text().replace("film", "https://example.invalid/film")
    far = playlist.with_name("far.m3u8")
    far.write_text(text)
    master = playlist.with_name("to far.m3u8")
    master.write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\nhttps://example.invalid/live.m3u8\n")
    for video in (far, master, EncodedVideo("a.m3u8", text.encode()), EncodedVideo("b.m3u8", playlist.read_bytes())):
        with pytest.raises(VideoError, match=r"\.m3u8 is a playlist whose parts are not on this machine"):
            probe(video)


def test_a_live_stream_in_dash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "live.mpd"
    path.write_text('<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic"></MPD>\n')
    with pytest.raises(VideoError, match=r"live\.mpd is a playlist of a live stream"):
        probe(path)


def test_a_frame_with_side_data_that_pyav_does_not_know(tmp_path: Path) -> None:
    """As PyAV 18.1 and 19.0 meet it in any TIFF: asking for the way that a frame is turned is a ValueError there."""
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.tiff")
    np.testing.assert_array_equal(read_frames(tmp_path / "picture.tiff", [0])[0], picture)
