"""The trie holds the texts, each shared stretch once."""

from hypothesis import given
from hypothesis import strategies as st

from deltatune.packing.trie import Node, build
from tests.packing.texts import TEXTS


@given(TEXTS, st.integers(1, 6))
def test_each_text_is_its_nodes_from_the_root_down(texts: list[list[int]], least: int) -> None:
    nodes = build(texts, least=least)
    for number, text in enumerate(texts):
        path = [node for node in nodes if number in node.texts]
        depth = 0
        for node, parent in zip(path, [None, *path], strict=False):
            assert node.depth == depth
            assert node.parent == (None if parent is None else nodes.index(parent))
            depth += node.length
        assert depth == len(text)


@given(TEXTS, st.integers(1, 6))
def test_nodes_lie_one_after_the_other_and_agree(texts: list[list[int]], least: int) -> None:
    row = 0
    for node in build(texts, least=least):
        assert node.start == row
        assert node.length > 0
        row = node.stop
        stretches = {tuple(texts[text][node.depth : node.depth + node.length]) for text in node.texts}
        assert len(stretches) == 1


@given(TEXTS)
def test_without_a_least_length_each_beginning_is_there_once(texts: list[list[int]]) -> None:
    beginnings = {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
    assert build(texts, least=1)[-1].stop == len(beginnings)


@given(TEXTS, st.integers(2, 6))
def test_a_shared_stretch_has_the_least_length_unless_texts_end_with_it(texts: list[list[int]], least: int) -> None:
    def ends(node: Node) -> bool:
        return all(len(texts[text]) == node.depth + node.length for text in node.texts)

    for node in build(texts, least=least):
        assert len(node.texts) == 1 or node.length >= least or ends(node)
