"""How the figures of a plan come about, in words."""

from __future__ import annotations

from collections import Counter

from deltatune.methods.written import FULL
from deltatune.planning.cost import Cost
from deltatune.planning.optimizers import OPTIMIZERS
from deltatune.planning.plan import Plan
from deltatune.planning.timeline import Block
from deltatune.sizes import size_text

__all__ = ["assumptions", "explained"]

GROUPS = 8
"""How many kinds of tensors are named."""

MOMENTS = {
    "backward": "as forward ends or backward runs",
    "optimizer": "in the optimiser's step",
    "preparation": "before the first step, while the method looks at the data",
}


def assumptions(plan: Plan) -> list[str]:
    """What the figures hold for, and what they leave out."""
    settings = plan.settings
    batch = settings.batch
    texts = f"{batch.rows} texts of {settings.seq_len:,} tokens"
    shared = f", the first {settings.shared:,} the same in all" if settings.shared else ""
    how = "as dt.Trainer trains" if settings.savings else "padded rows and the model's own loss"
    held = settings.dtype if settings.quant is None else f"{settings.quant}, computed in {settings.dtype}"
    more = [f"{settings.accumulation} batches a step"] * (settings.accumulation > 1)
    more += ["layers checkpointed"] * settings.checkpointing
    return [
        f"{plan.base} for {plan.task}: {plan.parameters:,} parameters in {held}",
        "; ".join(
            [
                f"{batch.tokens:,} tokens a batch, {texts}{shared}",
                how,
                *more,
                settings.optimizer,
                f"on {settings.device}",
            ]
        ),
        "tensors only; drivers, kernels' workspaces and an allocator's rounding come on top, about "
        f"{size_text(plan.reserve)} on a GPU",
    ]


def explained(plan: Plan, cost: Cost) -> list[str]:
    """How a method's figures come about, a line each."""
    settings, moment = plan.settings, cost.moments[cost.moment]
    kind = OPTIMIZERS[settings.optimizer]
    moments = {0: "nothing", 1: "one number", 2: "two numbers"}[kind.moments]
    if kind.factored:
        moments = "a row and a column in place of each matrix, and one number"
    each = moments if kind.bits is None else f"{moments} of {kind.bits} bits"
    per_token = cost.operations / (settings.batch_tokens * settings.accumulation)
    what = "all parameters" if cost.method == FULL else f"{plan.parameters:,} frozen parameters and the delta"
    return [
        f"trained      {cost.trainable:,} numbers, {cost.share:.3%} of the base",
        f"weights      {size_text(cost.weights)}: {what}",
        f"gradients    {size_text(cost.gradients)}: a number for each trained one, in its precision",
        f"optimizer    {size_text(cost.optimizer)}: {settings.optimizer} keeps {each} for each trained one",
        f"activations  {size_text(cost.activations)}: kept by the forward pass for the backward pass",
        f"temporary    {size_text(cost.temporary)}: what single operations need at the peak",
        f"peak         {size_text(cost.total)}, {MOMENTS[cost.moment]}: weights {size_text(cost.weights)}, gradients "
        f"{size_text(moment.gradients)}, optimizer {size_text(moment.optimizer)}, activations "
        f"{size_text(moment.activations)}, temporary {size_text(moment.temporary)}",
        f"file         {size_text(cost.file)}: {'all weights' if cost.method == FULL else 'the tensors of the delta'}",
        f"operations   {cost.operations / 1e12:,.2f} T a step, {per_token / 1e9:,.2f} G a token, forward and backward",
        "largest at the peak of forward and backward:",
        *(f"  {line}" for line in _groups(cost.blocks)),
    ]


def _groups(blocks: tuple[Block, ...]) -> list[str]:
    counts = Counter((block.nbytes, block.operation, block.shape, block.dtype) for block in blocks)
    largest = sorted(counts.items(), key=lambda found: -found[0][0] * found[1])[:GROUPS]
    return [
        f"{size_text(nbytes * count):>9} = {count:>3} x {list(shape)} {str(dtype).removeprefix('torch.')}, "
        f"made by {operation.removeprefix('aten.').removesuffix('.default')}"
        for (nbytes, operation, shape, dtype), count in largest
    ]
