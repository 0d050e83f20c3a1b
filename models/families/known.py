"""The families that Reelmill knows, and the lookup of a folder's family."""

from pathlib import Path

from models.errors import BadModel
from models.families import animatediff, cogvideox, framepack, hunyuanvideo, ltx, svd, wan
from models.families.family import Family
from models.weights.pipeline_folder import read_index

FAMILIES: tuple[Family, ...] = (svd, animatediff, cogvideox, framepack, hunyuanvideo, ltx, wan)


def find_family(folder: Path) -> tuple[Family, str]:
    """Find the family of the pipeline class that a folder's model_index.json names; return it and that class.

    Raises BadInput when the folder is not a model's and BadModel when no family knows the class.
    """
    name = str(read_index(folder).get("_class_name"))
    for family in FAMILIES:
        if name in family.PIPELINES:
            return family, name
    known = ", ".join(sorted(each for family in FAMILIES for each in family.PIPELINES))
    raise BadModel(f"{folder}: its pipeline class is {name}; the known ones are {known}. Name a model of one of them.")
