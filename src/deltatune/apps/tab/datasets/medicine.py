"""Data sets on illness."""

from __future__ import annotations

from functools import partial

from deltatune.apps.tab.datasets.dataset import Field, Recipe
from deltatune.apps.tab.datasets.sources import packaged, scikit_learn

__all__ = ["MEDICINE"]

_NO_YES = {0: "no", 1: "yes"}
_CELLS = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points")
_SHAPES = (*_CELLS, "symmetry", "fractal dimension")

MEDICINE: dict[str, Recipe] = {
    "diabetes": Recipe(
        about="Women of the Pima people, and whether they had diabetes within five years; 768 rows from Smith et al. "
        "1988, KEEL. A pressure, thickness or index of 0 is a missing value.",
        read=partial(packaged, "classification/pima/pima.dat"),
        fields=(
            Field("Preg", "number_of_pregnancies"),
            Field("Plas", "plasma_glucose", "mg/dl", missing=0),
            Field("Pres", "diastolic_blood_pressure", "mm Hg", missing=0),
            Field("Skin", "triceps_skin_fold_thickness", "mm", missing=0),
            Field("Insu", "serum_insulin", "mu U/ml", missing=0),
            Field("Mass", "body_mass_index", "kg/m²", missing=0),
            Field("Pedi", "diabetes_pedigree_function"),
            Field("Age", "age", "years"),
        ),
        target="Class",
        classes={"negative": "healthy", "positive": "diabetes"},
        question="Does this patient have diabetes? Yes or no?",
        answers={"healthy": "No", "diabetes": "Yes"},
    ),
    "heart": Recipe(
        about="Patients of a clinic in Cleveland, and whether a coronary artery was narrowed by half or more; 297 rows "
        "without missing values from Detrano et al. 1989, UCI and KEEL.",
        read=partial(packaged, "classification/cleveland/cleveland.dat"),
        fields=(
            Field("Age", "age", "years"),
            Field("Sex", "sex", codes={0: "female", 1: "male"}),
            Field(
                "Cp",
                "chest_pain",
                codes={1: "typical angina", 2: "atypical angina", 3: "not anginal", 4: "asymptomatic"},
            ),
            Field("Trestbps", "resting_blood_pressure", "mm Hg"),
            Field("Chol", "serum_cholesterol", "mg/dl"),
            Field("Fbs", "fasting_blood_sugar_above_120_mg/dl", codes=_NO_YES),
            Field(
                "Restecg",
                "resting_electrocardiogram",
                codes={0: "normal", 1: "abnormal ST-T wave", 2: "left ventricular hypertrophy"},
            ),
            Field("Thalach", "maximum_heart_rate", "beats per minute"),
            Field("Exang", "angina_induced_by_exercise", codes=_NO_YES),
            Field("Oldpeak", "ST_depression_induced_by_exercise", "mm"),
            Field("Slope", "slope_of_the_peak_ST_segment", codes={1: "rising", 2: "flat", 3: "falling"}),
            Field("Ca", "major_vessels_colored_by_fluoroscopy"),
            Field("Thal", "thallium_scan", codes={3: "normal", 6: "fixed defect", 7: "reversible defect"}),
        ),
        target="Num",
        classes={"0": "healthy", **dict.fromkeys("1234", "ill")},
        question="Does this patient have heart disease? Yes or no?",
        answers={"healthy": "No", "ill": "Yes"},
    ),
    "coronary": Recipe(
        about="Men of a region of South Africa where coronary heart disease is frequent; 462 rows from Rousseauw et "
        "al. 1983, KEEL.",
        read=partial(packaged, "classification/saheart/saheart.dat"),
        fields=(
            Field("Sbp", "systolic_blood_pressure", "mm Hg"),
            Field("Tobacco", "tobacco_smoked_so_far", "kg"),
            Field("Ldl", "LDL_cholesterol", "mmol/l"),
            Field("Adiposity", "adiposity"),
            Field("Famhist", "family_history_of_heart_disease", codes={"Present": "yes", "Absent": "no"}),
            Field("Typea", "type_A_behavior_score"),
            Field("Obesity", "obesity"),
            Field("Alcohol", "current_alcohol_consumption"),
            Field("Age", "age", "years"),
        ),
        target="Chd",
        classes={"0": "healthy", "1": "ill"},
        question="Does this man have coronary heart disease? Yes or no?",
        answers={"healthy": "No", "ill": "Yes"},
    ),
    "survival": Recipe(
        about="Patients who had surgery for breast cancer in Chicago between 1958 and 1970; 306 rows from Haberman "
        "1976, KEEL.",
        read=partial(packaged, "classification/haberman/haberman.dat"),
        fields=(
            Field("Age", "age_at_the_operation", "years"),
            Field("Year", "year_of_the_operation_in_the_1900s"),
            Field("Positive", "positive_axillary_nodes"),
        ),
        target="Class",
        classes={"positive": "died", "negative": "survived"},
        question="Did this patient live for five years or more after the operation? Yes or no?",
        answers={"died": "No", "survived": "Yes"},
    ),
    "mammography": Recipe(
        about="Masses seen in mammography; 830 rows without missing values from Elter et al. 2007, UCI and KEEL. The "
        "physician's own assessment is left out.",
        read=partial(packaged, "classification/mammographic/mammographic.dat"),
        fields=(
            Field("Age", "age_of_the_patient", "years"),
            Field("Shape", "shape_of_the_mass", codes={1: "round", 2: "oval", 3: "lobular", 4: "irregular"}),
            Field(
                "Margin",
                "margin_of_the_mass",
                codes={1: "circumscribed", 2: "microlobulated", 3: "obscured", 4: "ill-defined", 5: "spiculated"},
            ),
            Field("Density", "density_of_the_mass", codes={1: "high", 2: "iso", 3: "low", 4: "fat-containing"}),
        ),
        target="Severity",
        classes={"0": "benign", "1": "malignant"},
        question="Is this mass malignant? Yes or no?",
        answers={"benign": "No", "malignant": "Yes"},
    ),
    "cytology": Recipe(
        about="Samples of breast tissue under the microscope, graded from 1 to 10; 683 rows without missing values "
        "from Wolberg and Mangasarian 1990, KEEL.",
        read=partial(packaged, "classification/wisconsin/wisconsin.dat"),
        fields=(
            Field("ClumpThickness", "clump_thickness"),
            Field("CellSize", "uniformity_of_cell_size"),
            Field("CellShape", "uniformity_of_cell_shape"),
            Field("MarginalAdhesion", "marginal_adhesion"),
            Field("EpithelialSize", "size_of_single_epithelial_cells"),
            Field("BareNuclei", "bare_nuclei"),
            Field("BlandChromatin", "bland_chromatin"),
            Field("NormalNucleoli", "normal_nucleoli"),
            Field("Mitoses", "mitoses"),
        ),
        target="Class",
        classes={"negative": "benign", "positive": "malignant"},
        question="Is this tumor malignant? Yes or no?",
        answers={"benign": "No", "malignant": "Yes"},
    ),
    "breast_cancer": Recipe(
        about="Cell nuclei in images of breast masses: of each measure the mean, its error and the mean of the three "
        "worst; 569 rows from Wolberg et al. 1993, scikit-learn.",
        read=partial(scikit_learn, "load_breast_cancer"),
        fields=tuple(
            Field(said, said.replace(" ", "_"))
            for said in (
                *(f"mean {shape}" for shape in _SHAPES),
                *(f"{shape} error" for shape in _SHAPES),
                *(f"worst {shape}" for shape in _SHAPES),
            )
        ),
        target="target",
        classes={"benign": "benign", "malignant": "malignant"},
        question="Is this breast mass malignant? Yes or no?",
        answers={"benign": "No", "malignant": "Yes"},
    ),
    "thyroid": Recipe(
        about="Laboratory tests of patients' thyroid glands; 215 rows from Coomans, UCI and KEEL.",
        read=partial(packaged, "classification/newthyroid/newthyroid.dat"),
        fields=(
            Field("T3resin", "T3_resin_uptake", "%"),
            Field("Thyroxin", "total_serum_thyroxin"),
            Field("Triiodothyronine", "total_serum_triiodothyronine"),
            Field("Thyroidstimulating", "basal_thyroid_stimulating_hormone"),
            Field("TSH_value", "change_of_thyroid_stimulating_hormone_after_injection"),
        ),
        target="Class",
        classes={"1": "normal", "2": "overactive", "3": "underactive"},
        question="How does the thyroid of this patient work? Normal, overactive or underactive?",
        answers={"normal": "Normal", "overactive": "Overactive", "underactive": "Underactive"},
    ),
}
