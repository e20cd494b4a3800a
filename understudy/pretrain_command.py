"""`pretrain`: the arguments; the work is in distill/pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.progress import say
from understudy.options import Output, Overwrite, Seed
from understudy.training_commands import BatchSize, LearningRate


def pretrain(
    objective: Annotated[
        str, typer.Option(help="masked (BERT's), permutation (XLNet's) or infoword (masked, and n-grams' information).")
    ],
    corpus: Annotated[
        list[str],
        typer.Option(
            metavar="FILE", help="Plain text in UTF-8, also .gz or .zst; give it again for each further file."
        ),
    ],
    output: Output,
    model: Annotated[
        str | None, typer.Option(help="Go on from this model: a directory, the embedded default, or a name on the Hub.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="config.json of a model of random weights; four layers of width 256 otherwise.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Directory of its tokenizer; one is trained on the corpus otherwise.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Tokens of a trained tokenizer; as the config has it, or 8000, otherwise.")
    ] = None,
    cased: Annotated[bool, typer.Option("--cased", help="A trained tokenizer keeps capitals.")] = False,
    documents: Annotated[
        str | None,
        typer.Option(help="line (each is a document) or paragraph (blank lines between); found out otherwise."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the optimizer.")] = 10_000,
    batch_size: BatchSize = 32,
    accumulate: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    max_length: Annotated[int, typer.Option(help="Tokens a row; a longer document takes several.")] = 128,
    learning_rate: LearningRate = 1e-4,
    warmup: Annotated[float, typer.Option(help="Share of the steps over which the rate rises.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of weight matrices.")] = 0.01,
    clip: Annotated[float, typer.Option(help="The gradient's largest norm.")] = 1.0,
    mask_share: Annotated[float, typer.Option(help="masked, infoword: share of the tokens that are masked.")] = 0.15,
    dim_weight: Annotated[float, typer.Option(help="infoword: weight of the n-grams' term.")] = 1.0,
    mlm_loss: Annotated[
        str, typer.Option(help="infoword: softmax over all tokens, or nce: over those of the batch (the paper's).")
    ] = "softmax",
    span_k: Annotated[int, typer.Option(help="permutation: K; one token in K is predicted.")] = 6,
    memory_length: Annotated[int, typer.Option(help="permutation: states kept of the segments before.")] = 0,
    reuse_length: Annotated[
        int | None,
        typer.Option(help="permutation: tokens of a segment that are kept, after which the next starts; all."),
    ] = None,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="permutation: half of the rows read backwards.")
    ] = False,
    segments: Annotated[
        int, typer.Option(help="permutation: 2 puts a second segment, half of the time another document's, in a row.")
    ] = 1,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Pretrain an encoder on plain text, from random weights or going on from a model."""
    from distill.pretraining.pretraining import pretrain as run
    from distill.pretraining.settings import PretrainingSettings
    from distill.processes import launched

    settings = PretrainingSettings(
        objective=objective,
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        max_length=max_length,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        clip=clip,
        vocabulary=vocabulary,
        cased=cased,
        seed=seed,
        mask_share=mask_share,
        span_k=span_k,
        memory_length=memory_length,
        reuse_length=reuse_length,
        bidirectional=bidirectional,
        segments=segments,
        dim_weight=dim_weight,
        mlm_loss=mlm_loss,
    )
    record = run(
        corpus,
        output,
        settings,
        model=model,
        config=config,
        tokenizer=tokenizer,
        documents=documents,
        overwrite=overwrite,
    )
    if launched().is_first:
        say(
            f"Loss {record.losses[-1]['loss']:.4f} after {record.tokens:,} tokens (epoch {record.epochs}); "
            f"{record.wall_time_s:.0f} s. Written to {output}"
        )
