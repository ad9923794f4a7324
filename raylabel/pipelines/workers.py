"""Whether the training workers of a run can share the batches of its trainings."""

from raylabel.compute.resources import Cluster
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Artifact
from raylabel.training.mixed_stream import MixedStream, Mixture
from raylabel.training.stream import Stream


def check_workers(recipe: Recipe, examples: Artifact) -> None:
    """InputError if a worker would get too few images of a batch in any training, so that it is found before days of
    pre-training. `examples`: any EXAMPLES, as their content does not matter."""
    stream, cluster = Stream(examples, recipe.seed), Cluster.now()
    controls = [recipe.control_train, *(trial.control_train for _, trial in recipe.control_trials)]
    for batch in {config.batch: None for config in (*(train for _, train in recipe.trainings.values()), *controls)}:
        stream.check_workers(cluster.workers(recipe.resources, batch), batch)
    for share, config in ((recipe.mixed, recipe.mixed_train), (recipe.finetune_picks, recipe.finetune)):
        if 0 < share < 1:
            mixture, workers = Mixture(examples=examples, share=share), cluster.workers(recipe.resources, config.batch)
            MixedStream(examples, mixture, recipe.seed).check_workers(workers, config.batch)
