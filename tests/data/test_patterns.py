from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from normgate.data.patterns import compiled, is_pattern, split, split_query
from normgate.data.sources import SourceError


def chosen(text: str, names: list[str]) -> list[str]:
    """Names that a pattern means, each walked folder by folder."""
    found = []
    for name in names:
        *folders, file = name.split("/")
        pattern = compiled(split(text)[1])
        for folder in folders:
            pattern = None if pattern is None else pattern.inside(folder)
        if pattern is not None and pattern.matches(file):
            found.append(name)
    return found


NAMES = ["a.jpg", "b.png", "x/a.jpg", "x/b.png", "x/y/a.jpg", "x/y/z/c.jpg", "y/a.jpg", "[a].jpg"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*.jpg", ["a.jpg", "[a].jpg"]),
        ("?.jpg", ["a.jpg"]),
        ("*/*", ["x/a.jpg", "x/b.png", "y/a.jpg"]),
        ("**", NAMES),
        ("**/*", NAMES),
        ("**/a.jpg", ["a.jpg", "x/a.jpg", "x/y/a.jpg", "y/a.jpg"]),
        ("**/**/c.jpg", ["x/y/z/c.jpg"]),
        ("**/y/**/*.jpg", ["x/y/a.jpg", "x/y/z/c.jpg", "y/a.jpg"]),
        ("x*/**", ["x/a.jpg", "x/b.png", "x/y/a.jpg", "x/y/z/c.jpg"]),
        ("[xy]/a.*", ["x/a.jpg", "y/a.jpg"]),
        ("[!x]/a.*", ["y/a.jpg"]),
        ("[[]a].jpg", ["[a].jpg"]),
        ("{x,y}/a.jpg", ["x/a.jpg", "y/a.jpg"]),
        ("{x/y,y}/*.{jpg,png}", ["x/y/a.jpg", "y/a.jpg"]),
        ("*.JPG", []),
        ("*.jpg/*", []),
    ],
)
def test_what_a_pattern_means(text: str, expected: list[str]) -> None:
    assert is_pattern(text)
    assert chosen(text, NAMES) == expected


@given(st.lists(st.sampled_from(["a", "b", "*", "**", "?b"]), min_size=1, max_size=4), st.text("ab/", max_size=6))
@example(["a", "**"], "a")
def test_segments_match_as_a_regular_expression_does(segments: list[str], name: str) -> None:
    """The oracle: one expression for the whole path."""
    import re

    name = "/".join(part for part in name.split("/") if part)
    if not name:
        return
    one = {"*": "[^/]*", "?b": "[^/]b"}
    expression = ""
    for i, segment in enumerate(segments):
        if segment != "**":
            expression += one.get(segment, segment) + ("" if i == len(segments) - 1 else "/")
        elif i == len(segments) - 1:
            expression += ".+"
        else:
            expression += "([^/]+/)*"
    pattern = compiled(["/".join(segments)])
    *folders, file = name.split("/")
    found = pattern
    for folder in folders:
        found = None if found is None else found.inside(folder)
    assert (found is not None and found.matches(file)) == bool(re.fullmatch(expression, name))


@pytest.mark.parametrize(
    ("text", "folder", "names"),
    [
        ("a/b/*.jpg", "a/b/", ["*.jpg"]),
        ("/a/b?/c", "/a/", ["b?/c"]),
        ("*", "", ["*"]),
        ("/*", "/", ["*"]),
        ("s/t-{000..003}.tar", "s/", ["t-000.tar", "t-001.tar", "t-002.tar", "t-003.tar"]),
        ("t-{8..11}.tar", "", ["t-8.tar", "t-9.tar", "t-10.tar", "t-11.tar"]),
        ("t-{0..10}", "", [f"t-{i}" for i in range(11)]),
        ("t-{08..10}", "", ["t-08", "t-09", "t-10"]),
        ("t-{2..0}", "", ["t-2", "t-1", "t-0"]),
        ("{a,b}-{0..1}", "", ["a-0", "a-1", "b-0", "b-1"]),
        ("{a,b{1,2}}", "", ["a", "b1", "b2"]),
        ("x/{a,a}", "x/", ["a"]),
        ("x/{a}{1,2}", "x/", ["{a}1", "{a}2"]),
    ],
)
def test_folders_and_braces(text: str, folder: str, names: list[str]) -> None:
    found = split(text)
    assert found[0] == folder
    assert sorted(found[1]) == sorted(names)
    if "{a,b{" not in text:
        assert found[1] == names


@pytest.mark.parametrize("text", ["a/b.jpg", "{a}.jpg", "a{}", "{1..a}"])
def test_what_is_no_pattern(text: str) -> None:
    assert not is_pattern(text)


def test_more_names_than_can_be_meant() -> None:
    with pytest.raises(SourceError, match="more than 1,000,000 names"):
        split("{0..99999999}.tar")


@pytest.mark.parametrize(
    ("text", "name", "query"),
    [
        ("a.parquet?split=train", "a.parquet", "split=train"),
        ("a?.parquet?split=a&b=c", "a?.parquet", "split=a&b=c"),
        ("a?.jpg", "a?.jpg", ""),
        ("a", "a", ""),
        ("d=?/x.parquet", "d=?/x.parquet", ""),
        ("?/k=v.jpg", "?/k=v.jpg", ""),
    ],
)
def test_queries(text: str, name: str, query: str) -> None:
    assert split_query(text) == (name, query)
