"""The invented names that the databases are filled with."""

from __future__ import annotations

__all__ = ["CITIES", "COMPANY_HEADS", "COMPANY_TAILS", "DEGREES", "FAMILY", "GIVEN", "INDUSTRIES", "PROVINCES", "STEMS"]

CITIES = ("Aldport", "Brightwater", "Calder", "Dunmere", "Eastvale", "Fernhill", "Graywick", "Holloway", "Ironbridge")
PROVINCES = ("Amber Coast", "Cedar Plains", "Highmoor", "Lake County", "North Reach", "Silver Valley", "South Downs")
DEGREES = ("bachelor", "master", "doctor")
GIVEN = (
    "Ada", "Boris", "Clara", "Dario", "Elena", "Felix", "Greta", "Hugo", "Ines", "Jonah", "Kira", "Leon", "Mara",
    "Nils", "Oona", "Pavel", "Rosa", "Simon", "Tessa", "Umar", "Vera", "Wim", "Yara", "Zeno",
)  # fmt: skip
FAMILY = (
    "Abbott", "Bellamy", "Castell", "Dorn", "Eriksen", "Falk", "Gallo", "Hartmann", "Ivers", "Jansen", "Keller",
    "Lindgren", "Moreau", "Novak", "Okafor", "Petrov", "Quist", "Ramos", "Sato", "Thorne", "Ullman", "Varga", "Weiss",
    "Young", "Zhao",
)  # fmt: skip
STEMS = (
    "Amberline", "Bluecrest", "Copperfield", "Dawnstar", "Evergreen", "Farsight", "Goldleaf", "Highland", "Ivoryport",
    "Juniper", "Keystone", "Lakeshore", "Meridian", "Northwind", "Oakmont", "Pinnacle", "Quayside", "Redwood",
    "Silverlake", "Tidewater",
)  # fmt: skip
COMPANY_HEADS = (
    "Acorn", "Balsam", "Cobalt", "Delta", "Ember", "Falcon", "Granite", "Harbor", "Indigo", "Jasper", "Krypton",
    "Lumen", "Mistral", "Nova", "Orchid", "Pegasus", "Quartz", "Raven", "Saffron", "Titan", "Umbra", "Vertex", "Willow",
    "Xenon", "Yonder", "Zephyr",
)  # fmt: skip
COMPANY_TAILS = (
    "Bank", "Biotech", "Brewing", "Cement", "Chemicals", "Devices", "Electric", "Foods", "Insurance", "Logistics",
    "Media", "Mining", "Motors", "Optics", "Pharma", "Power", "Retail", "Semiconductors", "Shipping", "Software",
    "Steel", "Telecom",
)  # fmt: skip
INDUSTRIES = {
    "Bank": ("Banks", "Finance"),
    "Biotech": ("Biotechnology", "Health"),
    "Brewing": ("Beverages", "Consumer"),
    "Cement": ("Building materials", "Materials"),
    "Chemicals": ("Chemicals", "Materials"),
    "Devices": ("Medical devices", "Health"),
    "Electric": ("Electrical equipment", "Industry"),
    "Foods": ("Food", "Consumer"),
    "Insurance": ("Insurance", "Finance"),
    "Logistics": ("Transport", "Industry"),
    "Media": ("Media", "Technology"),
    "Mining": ("Mining", "Materials"),
    "Motors": ("Automobiles", "Consumer"),
    "Optics": ("Electronics", "Technology"),
    "Pharma": ("Pharmaceuticals", "Health"),
    "Power": ("Utilities", "Energy"),
    "Retail": ("Retail", "Consumer"),
    "Semiconductors": ("Semiconductors", "Technology"),
    "Shipping": ("Shipping", "Industry"),
    "Software": ("Software", "Technology"),
    "Steel": ("Steel", "Materials"),
    "Telecom": ("Telecommunications", "Technology"),
}
