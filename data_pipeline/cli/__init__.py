"""The verbs `llama-dist tokenizer ...` and `llama-dist data ...`.

Answers go to stdout, as text or with `--json`; progress goes to stderr. Does no work of its own.
"""

import typer

from data_pipeline.cli import dataset_verbs, import_verbs, order_verbs, prepare_verbs, stream_verbs, tokenizer_verbs

tokenizer_app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, or look into one.")
data_app = typer.Typer(no_args_is_help=True, help="Turn text into token shards, check them, look into them.")
tokenizer_verbs.register(tokenizer_app)
prepare_verbs.register(data_app)
dataset_verbs.register(data_app)
import_verbs.register(data_app)
stream_verbs.register(data_app)
order_verbs.register(data_app)
