"""A small random BERT that knows the words of a small school, and questions about it."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from deltatune.apps.sql.examples import Example

from .test_ranking import SCHOOL

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

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
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(
        [*texts, *(example.question for example in EXAMPLES)],
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False),
    )
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
