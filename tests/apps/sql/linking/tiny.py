"""A small random BERT that knows the words of a small school, and questions about it."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from deltatune.apps.sql.examples import Example

from .test_ranking import SCHOOL

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
NORMALIZER = normalizers.BertNormalizer()
PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()

EXAMPLES = [
    Example(question, sql, "school")
    for question, sql in [
        ("Who learns?", "SELECT pupil_name FROM pupil"),
        ("What is taught?", "SELECT title FROM course"),
        ("Which floor?", "SELECT floor FROM room"),
        ("Which day?", "SELECT day FROM lesson"),
        ("Which grade?", "SELECT grade FROM enrolment"),
        ("How many rooms?", "SELECT COUNT(*) FROM room"),
        (
            "What does Ada learn?",
            "SELECT c.title FROM course AS c JOIN enrolment AS e ON c.course_id = e.course_id "
            "JOIN pupil AS p ON p.pupil_id = e.pupil_id WHERE p.pupil_name = 'Ada'",
        ),
    ]
]


def save_bert(folder: Path) -> Path:
    """A BERT without a task, and its tokenizer."""
    texts = [f"{t.name}: {t.comment} | {c.name}: {c.comment}" for t in SCHOOL.tables for c in t.columns]
    vocabulary = _vocabulary([*texts, *(example.question for example in EXAMPLES)])
    core = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    core.normalizer = NORMALIZER
    core.pre_tokenizer = PRE_TOKENIZER
    core.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [(token, core.token_to_id(token)) for token in SPECIAL[2:]]
    )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(made),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.BertModel(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def _vocabulary(texts: Sequence[str]) -> dict[str, int]:
    """Every word of the texts, and every letter for other words. A trainer would number them differently each time."""
    words = {word for text in texts for word, _ in PRE_TOKENIZER.pre_tokenize_str(NORMALIZER.normalize_str(text))}
    letters = set(string.ascii_lowercase + string.digits + string.punctuation)
    tokens = [*SPECIAL, *sorted(words | letters), *(f"##{letter}" for letter in sorted(letters))]
    return {token: number for number, token in enumerate(tokens)}
