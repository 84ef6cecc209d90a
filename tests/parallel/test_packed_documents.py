"""Documents packed into rows, with masked labels, train as if each were alone; at every topology and micro-batch."""

import pytest

from data_pipeline.config import PreparationConfig, TokenizerTrainingConfig
from data_pipeline.packing.pack_dataset import pack_split
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.tokenizer_training import train_tokenizer

# fp32: only the order of additions differs; what is seen is near 1e-6.
TOLERANCE = 1e-5
# The norm adds squares in another order, and is not divided by their number as the loss is.
RELATIVE_NORM_TOLERANCE = 1e-4

STEPS = [0, 4]
LENGTH = 32
VOCABULARY = 275
ALONE = {"documents alone": {"zero": 1, "steps": STEPS, "alone": True}}


def packed(zero, micro_batch, **options):
    return {"zero": zero, "steps": STEPS, "isolated": True, "micro_batch": micro_batch} | options


def of_dataset(dataset, micro_batch, **options):
    data = {"sources": [{"path": str(dataset)}], "isolate_documents": True, "packing": "best_fit"}
    # Neither number is a multiple of micro-batch x replicas.
    evaluation = {
        "interval_steps": 1,
        "num_sequences": 7,
        "sets": [{"name": "seen", "split": "train", "num_sequences": 3}],
    }
    job = {"zero": 1, "steps": STEPS, "dataset": data, "evaluation": evaluation, "vocabulary": VOCABULARY}
    return job | {"micro_batch": micro_batch} | options


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Texts of 1 to 60 words, packed at 32 tokens."""
    folder = tmp_path_factory.mktemp("packed")
    text = folder / "text"
    text.mkdir()
    for number in range(80):
        words = [f"word{(number * 7 + place) % 23}" for place in range(1 + number * 13 % 60)]
        (text / f"{number}.txt").write_text(" ".join(words))
    tokenizer = train_tokenizer(
        [text], folder / "tokenizer", TokenizerTrainingConfig(vocabulary_size=VOCABULARY)
    ).tokenizer
    output = folder / "data"
    prepare_dataset([text], tokenizer.path, output, PreparationConfig(validation_fraction=0.3), num_workers=1)
    for split in ("train", "validation"):
        pack_split(output, split, LENGTH)
    return output


@pytest.fixture(scope="module")
def results(run_ranks, dataset):
    """Results by "job x processes". One launch a world: starting costs more than the steps."""
    pipeline = {
        "pipeline, micro-batch 1": packed(1, 1, pp=2),
        "data, pipeline": of_dataset(dataset, 2, pp=2),
        "pipeline, tied, recomputed": packed(1, 2, pp=2, tied=True, recompute=True),
        "pipeline, micro-batch 4": packed(1, 4, pp=2),
    }
    replicas = {
        "ZeRO-0, micro-batch 1": packed(0, 1),
        "ZeRO-1, micro-batch 2": packed(1, 2),
        "ZeRO-1, recomputed": packed(1, 4, recompute=True),
        "ZeRO-3, micro-batch 4": packed(3, 4),
        "tied, ZeRO-1": packed(1, 1, tied=True),
        "data, ZeRO-1": of_dataset(dataset, 2),
    }
    launches = [(1, ALONE | {"data, ZeRO-1": of_dataset(dataset, 4)}), (2, replicas), (2, pipeline)]
    return {
        f"{name} x {world_size}": result
        for world_size, named in launches
        for name, result in run_ranks("engine_jobs.py", world_size, named).items()
    }


def untied(results):
    return {name: result for name, result in results.items() if name.startswith(("ZeRO", "pipeline, micro"))}


def worst(one, other, key):
    return max(abs(a - b) for a, b in zip(one[key], other[key], strict=True))


def test_each_packed_document_has_the_loss_it_has_alone(results):
    alone = results["documents alone x 1"]
    assert len(alone["document_losses"]) > 10
    assert max(alone["document_losses"]) - min(alone["document_losses"]) > 0.01, "the documents differ"
    assert len(untied(results)) == 6
    for name, result in untied(results).items():
        assert worst(result, alone, "document_losses") < TOLERANCE, name


def test_packed_steps_are_those_of_the_documents_alone_whatever_the_micro_batch(results):
    """The gradient norms, and the losses after updates by these gradients: labels are masked unevenly."""
    alone = results["documents alone x 1"]
    assert abs(alone["losses"][0] - alone["losses"][-1]) > 0.01, "the weights moved"
    for name, result in untied(results).items():
        assert worst(result, alone, "losses") < TOLERANCE, name
        for seen, wanted in zip(result["norms"], alone["norms"], strict=True):
            assert seen == pytest.approx(wanted, rel=RELATIVE_NORM_TOLERANCE), name


def test_packed_documents_with_tied_embeddings_and_recomputation_agree(results):
    one, other = results["tied, ZeRO-1 x 2"], results["pipeline, tied, recomputed x 2"]
    for key in ("document_losses", "losses"):
        assert worst(one, other, key) < TOLERANCE
    assert other["block_forwards"] > 0


@pytest.mark.parametrize("name", ["data, ZeRO-1 x 2", "data, pipeline x 2"])
def test_a_packed_dataset_trains_alike_at_another_number_of_replicas(results, name):
    one, other = results["data, ZeRO-1 x 1"], results[name]
    assert worst(one, other, "losses") < TOLERANCE


@pytest.mark.parametrize("name", ["data, ZeRO-1 x 2", "data, pipeline x 2"])
def test_an_evaluation_set_has_one_value_at_any_number_of_replicas(results, name):
    one, other = results["data, ZeRO-1 x 1"]["sets"], results[name]["sets"]
    assert one.keys() == other.keys() == {"held_out", "seen"}
    assert one["held_out"] != one["seen"]
    for set_name in one:
        assert abs(one[set_name] - other[set_name]) < TOLERANCE, set_name
