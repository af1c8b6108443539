"""Data sets on money, cars and families."""

from __future__ import annotations

from functools import partial

from deltatune.apps.tab.datasets.dataset import Field, Recipe
from deltatune.apps.tab.datasets.sources import packaged, packaged_columns

__all__ = ["EVERYDAY"]

_FOUR = {1: "low", 2: "rather low", 3: "rather high", 4: "high"}
_LEVELS = {"vhigh": "very high", "high": "high", "med": "medium", "low": "low"}

EVERYDAY: dict[str, Recipe] = {
    "credit": Recipe(
        about="People who asked a German bank for a credit, and whether they turned out a good risk; 1,000 rows from "
        "Hofmann, UCI. Words are those of its description, of which Groemping 2019 found some to be wrong.",
        read=partial(
            packaged_columns, "classification/german/german.data.txt", [f"A{number}" for number in range(1, 22)]
        ),
        fields=(
            Field(
                "A1",
                "checking_account",
                codes={
                    "A11": "below 0 DM",
                    "A12": "0 to 200 DM",
                    "A13": "200 DM or more, or a salary for at least one year",
                    "A14": "none",
                },
            ),
            Field("A2", "duration", "months"),
            Field(
                "A3",
                "credit_history",
                codes={
                    "A30": "no credits taken, or all paid back duly",
                    "A31": "all credits at this bank paid back duly",
                    "A32": "existing credits paid back duly till now",
                    "A33": "delay in paying off in the past",
                    "A34": "critical account, or other credits existing",
                },
            ),
            Field(
                "A4",
                "purpose",
                codes={
                    "A40": "a new car",
                    "A41": "a used car",
                    "A42": "furniture or equipment",
                    "A43": "radio or television",
                    "A44": "domestic appliances",
                    "A45": "repairs",
                    "A46": "education",
                    "A48": "retraining",
                    "A49": "business",
                    "A410": "others",
                },
            ),
            Field("A5", "credit_amount", "DM"),
            Field(
                "A6",
                "savings",
                codes={
                    "A61": "less than 100 DM",
                    "A62": "100 to 500 DM",
                    "A63": "500 to 1000 DM",
                    "A64": "1000 DM or more",
                    "A65": "unknown or none",
                },
            ),
            Field(
                "A7",
                "employment",
                codes={
                    "A71": "unemployed",
                    "A72": "less than 1 year",
                    "A73": "1 to 4 years",
                    "A74": "4 to 7 years",
                    "A75": "7 years or more",
                },
            ),
            Field("A8", "installment_rate_of_income"),
            Field(
                "A9",
                "sex_and_marital_status",
                codes={
                    "A91": "male, divorced or separated",
                    "A92": "female, divorced, separated or married",
                    "A93": "male, single",
                    "A94": "male, married or widowed",
                },
            ),
            Field("A10", "other_debtors", codes={"A101": "none", "A102": "a co-applicant", "A103": "a guarantor"}),
            Field("A11", "present_residence"),
            Field(
                "A12",
                "property",
                codes={
                    "A121": "real estate",
                    "A122": "savings agreement with a building society, or life insurance",
                    "A123": "a car or other",
                    "A124": "unknown or none",
                },
            ),
            Field("A13", "age", "years"),
            Field("A14", "other_installment_plans", codes={"A141": "bank", "A142": "stores", "A143": "none"}),
            Field("A15", "housing", codes={"A151": "rented", "A152": "owned", "A153": "for free"}),
            Field("A16", "existing_credits_at_this_bank"),
            Field(
                "A17",
                "job",
                codes={
                    "A171": "unemployed, or unskilled and not resident",
                    "A172": "unskilled and resident",
                    "A173": "skilled employee or official",
                    "A174": "management, self-employed, highly qualified employee or officer",
                },
            ),
            Field("A18", "people_to_maintain"),
            Field("A19", "telephone", codes={"A191": "no", "A192": "yes"}),
            Field("A20", "foreign_worker", codes={"A201": "yes", "A202": "no"}),
        ),
        target="A21",
        classes={2: "bad", 1: "good"},
        question="Does this person have a good credit risk? Yes or no?",
        answers={"bad": "No", "good": "Yes"},
    ),
    "car": Recipe(
        about="Cars by price, room and safety, and how a decision model rates them; 1,728 rows from Bohanec, UCI.",
        read=partial(packaged, "classification/car/car.dat"),
        fields=(
            Field("Buying", "buying_price", codes=_LEVELS),
            Field("Maint", "price_of_maintenance", codes=_LEVELS),
            Field("Doors", "doors", codes={"2": "two", "3": "three", "4": "four", "5more": "five or more"}),
            Field("Persons", "seats", codes={"2": "two", "4": "four", "more": "more than four"}),
            Field("Lug_boot", "luggage_boot", codes={"small": "small", "med": "medium", "big": "big"}),
            Field("Safety", "safety", codes=_LEVELS),
        ),
        target="Acceptability",
        classes={"unacc": "unacceptable", "acc": "acceptable", "good": "good", "vgood": "very good"},
        question="How good is this car? Unacceptable, acceptable, good or very good?",
        answers={
            "unacceptable": "Unacceptable",
            "acceptable": "Acceptable",
            "good": "Good",
            "very good": "Very good",
        },
    ),
    "contraceptive": Recipe(
        about="Married women in Indonesia in 1987, and which contraception they use; 1,473 rows from Lim, UCI.",
        read=partial(packaged, "classification/contraceptive/contraceptive.dat"),
        fields=(
            Field("Wife_age", "age_of_the_wife", "years"),
            Field("Wife_education", "education_of_the_wife", codes=_FOUR),
            Field("Husband_education", "education_of_the_husband", codes=_FOUR),
            Field("Children", "number_of_children"),
            Field("Wife_religion", "religion_of_the_wife", codes={0: "not Islam", 1: "Islam"}),
            Field("Wife_working", "wife_at_work", codes={0: "yes", 1: "no"}),
            Field("Standard-of-living", "standard_of_living", codes=_FOUR),
            Field("Media_exposure", "media_exposure", codes={0: "good", 1: "not good"}),
        ),
        target="Contraceptive_method",
        classes={"1": "none", "2": "long-term", "3": "short-term"},
        question="Which contraception does the wife use? None, long-term or short-term?",
        answers={"none": "None", "long-term": "Long-term", "short-term": "Short-term"},
    ),
    "nursery": Recipe(
        about="Families who applied for a place in a nursery school in Ljubljana, and how they were ranked; 12,958 "
        "rows from Rajkovic, UCI, without the 2 of the class `recommend`.",
        read=partial(packaged, "classification/nursery/nursery.dat"),
        fields=(
            Field(
                "Parents",
                "occupation_of_the_parents",
                codes={"usual": "usual", "pretentious": "demanding", "great_pret": "very demanding"},
            ),
            Field(
                "Has_nurs",
                "present_nursery",
                codes={
                    "proper": "proper",
                    "less_proper": "less proper",
                    "improper": "improper",
                    "critical": "critical",
                    "very_crit": "very critical",
                },
            ),
            Field(
                "Form",
                "form_of_the_family",
                codes={
                    "complete": "complete",
                    "completed": "completed by a step-parent",
                    "incomplete": "incomplete",
                    "foster": "foster",
                },
            ),
            Field("Children", "children", codes={"1": "one", "2": "two", "3": "three", "more": "more than three"}),
            Field(
                "Housing",
                "housing",
                codes={"convenient": "convenient", "less_conv": "less convenient", "critical": "critical"},
            ),
            Field("Finance", "finances", codes={"convenient": "convenient", "inconv": "inconvenient"}),
            Field(
                "Social",
                "social_conditions",
                codes={
                    "nonprob": "without problems",
                    "slightly_prob": "slightly problematic",
                    "problematic": "problematic",
                },
            ),
            Field(
                "Health",
                "health",
                codes={"recommended": "recommended", "priority": "priority", "not_recom": "not recommended"},
            ),
        ),
        target="Class",
        classes={
            "not_recom": "not recommended",
            "very_recom": "recommended",
            "priority": "priority",
            "spec_prior": "special priority",
        },
        question="Should the child get a place? Not recommended, recommended, priority or special priority?",
        answers={
            "not recommended": "Not recommended",
            "recommended": "Recommended",
            "priority": "Priority",
            "special priority": "Special priority",
        },
    ),
}
