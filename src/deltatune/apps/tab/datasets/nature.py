"""Data sets on animals and plants."""

from __future__ import annotations

from functools import partial

from deltatune.apps.tab.datasets.dataset import Field, Recipe
from deltatune.apps.tab.datasets.sources import packaged, scikit_learn

__all__ = ["NATURE"]

_NO_YES = {"0": "no", "1": "yes"}
_TRAITS = (
    "Hair",
    "Feathers",
    "Eggs",
    "Milk",
    "Airborne",
    "Aquatic",
    "Predator",
    "Backbone",
    "Venomous",
    "Fins",
    "Tail",
)
_OTHER_TRAITS = {
    "Toothed": "teeth",
    "Breathes": "breathing_air",
    "Domestic": "domestic_animal",
    "Catsize": "at_least_as_large_as_a_cat",
}

NATURE: dict[str, Recipe] = {
    "iris": Recipe(
        about="Three species of iris by the size of their flowers; 150 rows from Fisher 1936, scikit-learn.",
        read=partial(scikit_learn, "load_iris"),
        fields=tuple(
            Field(f"{part} {side} (cm)", f"{part}_{side}", "cm")
            for part in ("sepal", "petal")
            for side in ("length", "width")
        ),
        target="target",
        classes={name: name for name in ("setosa", "versicolor", "virginica")},
        question="Which species of iris is this flower? Setosa, versicolor or virginica?",
        answers={"setosa": "Setosa", "versicolor": "Versicolor", "virginica": "Virginica"},
    ),
    "wine": Recipe(
        about="Wines of one region of Italy from three grapes, by chemical analysis; 178 rows from Forina et al. 1988, "
        "scikit-learn.",
        read=partial(scikit_learn, "load_wine"),
        fields=(
            Field("alcohol", "alcohol", "%"),
            Field("malic_acid", "malic_acid"),
            Field("ash", "ash"),
            Field("alcalinity_of_ash", "alkalinity_of_ash"),
            Field("magnesium", "magnesium"),
            Field("total_phenols", "total_phenols"),
            Field("flavanoids", "flavanoids"),
            Field("nonflavanoid_phenols", "nonflavanoid_phenols"),
            Field("proanthocyanins", "proanthocyanins"),
            Field("color_intensity", "color_intensity"),
            Field("hue", "hue"),
            Field("od280/od315_of_diluted_wines", "protein_content_by_absorbance"),
            Field("proline", "proline"),
        ),
        target="target",
        classes={"class_0": "Barolo", "class_1": "Grignolino", "class_2": "Barbera"},
        question="Which wine is this? Barolo, Grignolino or Barbera?",
        answers={"Barolo": "Barolo", "Grignolino": "Grignolino", "Barbera": "Barbera"},
    ),
    "zoo": Recipe(
        about="Animals by what they have and do, without their names; 101 rows from Forsyth, UCI and KEEL.",
        read=partial(packaged, "classification/zoo/zoo.dat"),
        fields=(
            *(Field(trait, trait.lower(), codes=_NO_YES) for trait in _TRAITS),
            *(Field(trait, said, codes=_NO_YES) for trait, said in _OTHER_TRAITS.items()),
            Field("Legs", "number_of_legs"),
        ),
        target="Type",
        classes=dict(
            zip("1234567", ("mammal", "bird", "reptile", "fish", "amphibian", "insect", "invertebrate"), strict=True)
        ),
        question="What is this animal? A mammal, bird, reptile, fish, amphibian, insect or other invertebrate?",
        answers={
            "mammal": "Mammal",
            "bird": "Bird",
            "reptile": "Reptile",
            "fish": "Fish",
            "amphibian": "Amphibian",
            "insect": "Insect",
            "invertebrate": "Invertebrate",
        },
    ),
}
