"""Lists as they are published and as people make them: each kind is read as meant, or refused in a sentence."""

import json
from pathlib import Path

import pytest

from timesformer_jax.data.lists.listing import Choice, read_list
from timesformer_jax.data.sources import read_videos
from timesformer_jax.data.videos import Span
from timesformer_jax.errors import DataError

Rows = list[tuple[str, str]]


def write(folder: Path, text: str | bytes, *videos: str, name: str = "list.csv") -> str:
    """A list, and files that stand for its videos."""
    for video in videos:
        path = folder / video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


def pairs(source: str, **options: object) -> Rows:
    return [(entry.path, entry.label) for entry in read_list(source, **options).entries]  # type: ignore[arg-type]


def refusal(source: str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_list(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(source, "LIST")


TWO = [("a.mp4", "run"), ("b.mp4", "jump")]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.mp4,run\nb.mp4,jump",
        "label;video_path;fps\nrun;a.mp4;25\njump;b.mp4;30",
        "Video Name\tClass\na.mp4\trun\nb.mp4\tjump",
        "#path label\na.mp4 run\nb.mp4 jump",
        "# path,label\r\na.mp4,run\r\nb.mp4,jump\r\n",
        "\ufefffile,action\na.mp4,run\nb.mp4,jump\n",
        'class,"caption","path",split\nrun,"he runs, fast\nand on",a.mp4,train\njump,"a ""leap""",b.mp4,train',
        ",path,label\n0,a.mp4,run\n1,b.mp4,jump",
        "path,label\na.mp4,run,\nb.mp4,jump,\n,,\n",
        json.dumps([{"label": "run", "path": "a.mp4"}, {"path": "b.mp4", "label": "jump", "fps": 30}]),
        '{"path": "a.mp4", "label": "run"}\n{"label": "jump", "path": "b.mp4"}\n',
        json.dumps({"path": ["a.mp4", "b.mp4"], "label": ["run", "jump"]}),
        "# made by hand\n# in May\na.mp4 run\nb.mp4 jump",
        "# made by hand\n# path label\na.mp4 run\nb.mp4 jump",
        "class_id,label,path\n1,run,a.mp4\n0,jump,b.mp4",
    ],
)
def test_columns_by_name(text: str, tmp_path: Path) -> None:
    assert pairs(write(tmp_path, text, "a.mp4")) == TWO


@pytest.mark.parametrize("heading", ["video_name,tag", "file,action", "movie,what", "foo,class", "path,bar"])
def test_a_heading_in_other_words(heading: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs(write(tmp_path, f"{heading}\na.mp4,run\nb.mp4,run\n", "a.mp4")) == [("a.mp4", "run"), ("b.mp4", "run")]
    said = "is taken for the names of the columns" in capsys.readouterr().err
    assert said == (heading in ("movie,what", "path,bar"))
    if heading == "movie,what":  # the first column has the paths of folders
        source = write(tmp_path, "movie,what\nfolder,3\nother,0\n", "folder/1.jpg")
        assert pairs(source) == [("folder", "3"), ("other", "0")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.mp4,run\na.mp4,jump", "line 1: {}/none.mp4 does not exist"),
        ("folder,jump\na.mp4,jump", "line 1: {}/folder does not exist"),
        ("folder,3\na.mp4,0", "line 1: {}/folder does not exist"),
        ("path,label\nnone,3\na.mp4,0", "line 2: {}/none does not exist"),
    ],
)
def test_a_first_row_is_never_dropped(text: str, message: str, tmp_path: Path) -> None:
    assert message.format(tmp_path) in refusal(write(tmp_path, text, "a.mp4"))


def test_a_folder_may_be_called_as_a_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path, "#1 run\na.mp4 run\n", "a.mp4")
    assert pairs(source) == [("a.mp4", "run")]
    assert "1 lines at the top begin with # and are left out" in capsys.readouterr().err
    (tmp_path / "#1").mkdir()
    assert "begins with #" in refusal(source)


def test_a_first_row_that_exists_is_a_video(tmp_path: Path) -> None:
    source = write(tmp_path, "movie,what\na.mp4,run\nb.mp4,run\n", "movie/1.jpg", "a.mp4")
    assert pairs(source)[0] == ("movie", "what")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4 1 3", "line 2 is no path and label: 'b.mp4 1 3' (several labels of a video are not read"),
        ("a.mp4 0 2\nb.mp4 1 3", "line 1 is no path and label: 'a.mp4 0 2' (several labels"),
        ("a.mp4,0\nb.mp4,1,3", "line 2 is no path and label: 'b.mp4,1,3' (several labels"),
        ("dir 0\nother 1 3", "line 2 is no path and label: 'other 1 3' (several labels"),
        ("dir 0 1 2 3 4\nother 1 3 4 5 6", "line 1 is no path and label"),
        ("a.mp4 0,3\nb.mp4 1,2", "line 1 has several labels (0,3)"),
        ("a.mp4 0\nb.mp4 1,2", "line 2 has several labels (1,2)"),
        ("path,label\na.mp4,0\nb.mp4,1|2", "line 3 has several labels (1|2)"),
        ('path,label\na.mp4,0\nb.mp4,"1 2"', "line 3 has several labels (1 2)"),
        ("path,label\na.mp4,run\nb.mp4,jump\nc.mp4,run|jump", "line 4 has several labels (run|jump)"),
        ('[{"path": "a.mp4", "label": [0, 3]}]', "video 1 has several labels ([0, 3])"),
        ("a.mp4,0.5\nb.mp4,1.0", "line 1: label 0.5 is no whole number"),
        ("path,label\na.mp4,0\nb.mp4,1e-1", "line 3: label 1e-1 is no whole number"),
        ('[{"path": "a.mp4", "label": 0.25}]', "video 1: label 0.25 is no whole number"),
        ("a.mp4,\nb.mp4,1", "line 1 is no path and label: 'a.mp4,' (there is no label)"),
        ("path,label\na.mp4,0\nb.mp4,", "line 3 has no label"),
        ("path,label\na.mp4,0\n,1", "line 3 has no path"),
        ("path,label\na.mp4,run,fast\nb.mp4,jump", "line 2 has 3 columns, but line 1 names 2: path, label (what has"),
        (
            "path,label,split\na.mp4,run,train\nb.mp4,jump",
            "line 3 has 2 columns, but line 1 names 3: path, label, split.",
        ),
        ('a.mp4,run\n"b.mp4,jump\nc.mp4,run', "line 2 has a quote that is not closed"),
        ('a.mp4,run\n"b".mp4,jump', "line 2 has a quote that is not closed, or closed before the column ends"),
        ("a.mp4 run\nb.mp4 long jump", "line 2 is no path and label: 'b.mp4 long jump' (what has spaces needs quotes"),
        ("a.mp4,run,1.5,3\nb.mp4,jump,0,2", "4 columns that line 1 does not name in known words"),
        (
            "foo,bar,baz\na.mp4,run,x\nb.mp4,jump,y",
            "3 columns that line 1 does not name in known words (foo, bar, baz)",
        ),
        ("a.mp4\nb.mp4\n", "line 1 is no path and label: 'a.mp4' has one column"),
        ("path,caption\na.mp4,he runs", "has no column of labels (it has 'path', 'caption')"),
        ("label,label\nrun,a.mp4", "two columns named 'label'"),
        ("label,path,path\nrun,a.mp4,a.mp4", "two columns named 'path'"),
        (
            "path,start_frame,end_frame,label\na.mp4,0,9,run",
            "has a column 'end_frame': parts of videos are read in sec",
        ),
        ("a.mp4 0\n# the rest\nb.mp4 1", "line 2"),
        ("a.mp4 0\n# rest\nb.mp4 1", "line 2"),
        ("run a.mp4\njump b.mp4", "line 1: the paths stand in the second column ('a.mp4')"),
        ("a.mp4\0 0", "is no text (it has a zero byte)"),
        ('{"path": "a.mp4", "label": 0}\n{"path": "b.mp4", "label": 1', "line 2 is no valid JSON"),
        ('{"path": "a.mp4", "path": "b.mp4", "label": 1}', "names 'path' twice"),
        ('{"path": ["a.mp4"], "label": [1, 2]}', "columns of different lengths"),
        ('[["a.mp4", 0]]', 'video 1 is ["a.mp4", 0], no object with a path and a label'),
        ('[{"path": "a.mp4", "label": null}]', "video 1 has no label"),
        ('{"a.mp4": 0}', "is no list of videos, but a JSON object"),
        (b"PAR1 and then nothing", "is damaged, or no Parquet file"),
    ],
)
def test_what_is_in_doubt_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    assert message in refusal(write(tmp_path, text, "a.mp4", "dir/1.jpg"))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a.mp4 0.0\nb.mp4 1.0\nb.mp4 10.\n", ["0", "1", "10"]),
        ("label,path\n0,a.mp4\n2.0,b.mp4\n", ["0", "2"]),
        ('[{"path": "a.mp4", "label": 1.0}, {"path": "b.mp4", "label": 3}]', ["1", "3"]),
        ("a.mp4 1e1\n", ["10"]),
    ],
)
def test_whole_floats_are_whole_numbers(text: str, labels: list[str], tmp_path: Path) -> None:
    source = write(tmp_path, text, "a.mp4")
    assert [label for _, label in pairs(source)] == labels
    assert pairs(write(tmp_path, "a.mp4 0.5\nb.mp4 1.0\n"), classes=("0.5", "1.0")) == [
        ("a.mp4", "0.5"),
        ("b.mp4", "1.0"),
    ]


def test_labels_that_may_count_from_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_videos(write(tmp_path, "a.mp4 2\nb.mp4 1\n", "a.mp4"))
    assert "the lowest label is 1; classes count from 0" in capsys.readouterr().err
    read_videos(write(tmp_path, "a.mp4 2\nb.mp4 0\n", "a.mp4"))
    assert capsys.readouterr().err == ""


def test_a_video_may_stand_there_several_times(tmp_path: Path) -> None:
    source = write(tmp_path, "a.mp4 0\nb.mp4 1\na.mp4 0\n", "a.mp4")
    assert read_videos(source).labels.tolist() == [0, 1, 0]
    source = write(tmp_path, "path,label,start,end\na.mp4,run,0,5\na.mp4,jump,5,9\na.mp4,run,0,5\n", "a.mp4")
    assert read_videos(source).labels.tolist() == [1, 0, 1]
    for rows in ("a.mp4,run,0,5\na.mp4,jump,0,5.0\n", "a.mp4,run,,\na.mp4,jump,0,\n"):
        with pytest.raises(DataError, match=r"a.mp4.* with two labels, 'run' \(line 2\) and 'jump' \(line 3\)"):
            read_videos(write(tmp_path, f"path,label,start,end\n{rows}", "a.mp4"))


def test_paths_with_spaces_and_numbers(tmp_path: Path) -> None:
    source = write(tmp_path, "take 1 0\ntake 2 1\n", "take 1/1.jpg")
    assert pairs(source) == [("take 1", "0"), ("take 2", "1")]
    assert pairs(write(tmp_path, "my 2 dogs.mp4 3\nb.mp4 1", "my 2 dogs.mp4")) == [
        ("my 2 dogs.mp4", "3"),
        ("b.mp4", "1"),
    ]
    assert pairs(write(tmp_path, "path label\nmy 2 dogs.mp4 3\nb.mp4 1"))[0] == ("my 2 dogs.mp4", "3")
    assert pairs(write(tmp_path, "'tis mine.mp4 3\nb.mp4 1", "'tis mine.mp4"))[0] == ("'tis mine.mp4", "3")
    assert pairs(write(tmp_path, "#1 best.mp4 3\nb.mp4 1", "#1 best.mp4"))[0] == ("#1 best.mp4", "3")


def spans(source: str, **options: object) -> list[Span | None]:
    return [entry.span for entry in read_list(source, **options).entries]  # type: ignore[arg-type]


def test_parts_in_seconds(tmp_path: Path) -> None:
    source = write(
        tmp_path, "video,label,start,end\na.mp4,run,0,5\na.mp4,run,5.5,\na.mp4,run,,7\na.mp4,run,,\n", "a.mp4"
    )
    assert spans(source) == [Span(0, 5), Span(5.5), Span(0, 7), None]
    records = [{"path": "a.mp4", "label": "run", "start_time": 1, "end_time": 2.5}, {"path": "a.mp4", "label": "run"}]
    assert spans(write(tmp_path, json.dumps(records))) == [Span(1, 2.5), None]
    for times, message in [
        ("5,5", "line 2: the end (5) is not after the start (5)"),
        ("-1,5", "line 2: the start '-1' is no number of seconds"),
        ("0:05,0:09", "line 2: the start '0:05' is no number of seconds"),
        ("1,nan", "line 2: the end 'nan' is no number of seconds"),
        ("1,1e999", "line 2: the end '1e999' is no number of seconds"),
    ]:
        assert message in refusal(write(tmp_path, f"path,label,start,end\na.mp4,run,{times}\n"))


def test_frames_as_mmaction2_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path, "run/x 12 3\njump/y 700 0\n", *(f"run/x/{i}.jpg" for i in range(12)))
    assert pairs(source) == [("run/x", "3"), ("jump/y", "0")]
    assert spans(source) == [Span(0, 12, "frames"), Span(0, 700, "frames")]
    assert "a path, a number of frames and a label (mmaction2)" in capsys.readouterr().err
    source = write(tmp_path, "run/x\t2\t10\t3\njump/y\t0\t7\t0\n")
    assert pairs(source) == [("run/x", "3"), ("jump/y", "0")]
    assert spans(source) == [Span(2, 12, "frames"), Span(0, 7, "frames")]
    # A path, 12 frames and the labels 1 and 4 look like an offset, but the folder has too few pictures.
    several = "frames 12 to 13 are listed, but {}/run/x has 12 pictures (several labels"
    assert several.format(tmp_path) in refusal(write(tmp_path, "run/x 12 1 4\njump/y 7 2 3\n"))
    assert "line 2 has 0 frames" in refusal(write(tmp_path, "run/x 120 3\njump/y 0 1\n"))
    assert "line 2 is no path and label" in refusal(write(tmp_path, "run/x 120 3\njump/y 7 1 2\n"))


KINETICS = """label,youtube_id,time_start,time_end,split
"riding, a bike",-x_1,5,15,train
yoga,00123,0,10,validate
yoga,zz,1,11,test
"""


def test_kinetics_own_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path, KINETICS, "-x_1_000005_000015.mp4")
    assert pairs(source, choice=Choice("train")) == [("-x_1_000005_000015.mp4", "riding, a bike")]
    said = capsys.readouterr().err
    assert "the rows of split train are taken (it has train, validate, test)" in said
    assert "the videos are called {youtube_id}_{time_start:06d}_{time_end:06d}.mp4" in said
    assert pairs(source, choice=Choice("validation")) == [("00123_000000_000010.mp4", "yoga")]
    assert pairs(source, choice=Choice("validation", "test")) == [("zz_000001_000011.mp4", "yoga")]
    assert spans(source, choice=Choice("validation")) == [None]
    whole = Choice("validation", template="all/{youtube_id}.mkv")
    assert pairs(source, choice=whole) == [("all/00123.mkv", "yoga")]
    assert spans(source, choice=whole) == [Span(0, 10)]
    in_folders = write(tmp_path, KINETICS, "yoga/00123_000000_000010.mp4")
    assert pairs(in_folders, choice=Choice("validation")) == [("yoga/00123_000000_000010.mp4", "yoga")]
    assert "has rows of 3 splits (train, validate, test); name one" in refusal(source)
    assert "none of which is 'dev'" in refusal(source, choice=Choice("train", "dev"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{id}.mp4", "has no column 'id' (it has label, youtube_id"),
        ("{youtube_id", "is no template"),
        ("x.mp4", "names no column in braces"),
        ("{youtube_id:06d}.mp4", "line 2: '-x_1' can't be written as the template's '06d' says"),
        ("{youtube_id.__class__}.mp4", "has no column"),
        ("{youtube_id!r}.mp4", "has no column"),
    ],
)
def test_templates_that_do_not_fit(template: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(write(tmp_path, KINETICS), choice=Choice("train", template=template))


def test_templates_of_other_lists(tmp_path: Path) -> None:
    template = Choice(template="{label}/{path}.avi")
    assert pairs(write(tmp_path, "x y\nz y\n", "y/x.avi"), choice=template) == [("y/x.avi", "y"), ("y/z.avi", "y")]
    source = write(tmp_path, "youtube_id,label\nabc,run\n")
    assert "names its videos by 'youtube_id' alone" in refusal(source)
    assert pairs(source, choice=Choice(template="{youtube_id}.mp4")) == [("abc.mp4", "run")]
    cut = "path,label,time_start,time_end\nabc_000003_000013.mp4,run,3,13\n"
    assert spans(write(tmp_path, cut, "abc_000003_000013.mp4")) == [None]


@pytest.mark.parametrize(
    ("splits", "choice", "taken"),
    [
        ("train val test", Choice("validation"), "b"),
        ("train test train", Choice("validation"), "b"),
        ("Train TEST validation", Choice("validation"), "c"),
        ("val val val", Choice("train"), "abc"),
        ("train val test", Choice("train"), "a"),
        ("train val test", Choice("train", "Test"), "c"),
        ("0 1 1", Choice("train", "1"), "bc"),
    ],
)
def test_the_split_that_is_meant(splits: str, choice: Choice, taken: str, tmp_path: Path) -> None:
    rows = "".join(f"{name}.mp4,run,{split}\n" for name, split in zip("abc", splits.split(), strict=True))
    source = write(tmp_path, f"path,label,split\n{rows}", "a.mp4")
    assert "".join(path[0] for path, _ in pairs(source, choice=choice)) == taken


def test_splits_that_are_missing(tmp_path: Path) -> None:
    source = write(tmp_path, "path,label,split\na.mp4,run,0\nb.mp4,run,1\n")
    assert "rows of 2 splits (0, 1); name one" in refusal(source, choice=Choice("train"))
    source = write(tmp_path, "path,label,split\na.mp4,run,train\nb.mp4,run,\n")
    assert "line 3 has nothing in the column 'split'" in refusal(source, choice=Choice("train"))
    source = write(tmp_path, "path,label\na.mp4,run\n")
    assert "has no column of splits (it has path, label)" in refusal(source, choice=Choice("train", "test"))


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"label": [0.0, 2.0], "start": [1.5, None], "file": ["a.mp4", "b c.mp4"], "n": [1, 2]})
    source = write(tmp_path, b"", "a.mp4", name="list.parquet")
    frame.to_parquet(source)
    assert pairs(source) == [("a.mp4", "0"), ("b c.mp4", "2")]
    assert spans(source) == [Span(1.5), None]
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert refusal(source) == "LIST is a Parquet file, which pyarrow reads: pip install 'timesformer-jax[parquet]'."
