"""The words and sentences that the demo's notes are made of, each in a training half and a held-out half.

Every name is invented. A held-out note shares no sentence, payee, person or purchase with a training note; what both
share is the way an amount and a date may be written, which is what there is to learn.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["AMOUNT_FORMS", "CATEGORIES", "DATE_FORMS", "MONTHS", "PEOPLE", "TEMPLATES", "Category", "Halves", "Split"]

Split: TypeAlias = Literal["train", "test"]


class Halves(NamedTuple):
    """Words of one kind: those that training may use, and those kept for the test."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The half that belongs to a split."""
        return self.train if split == "train" else self.test


class Category(NamedTuple):
    """One kind of spending: how a payee is joined to a purchase, the most it costs, who is paid, what is bought."""

    join: str
    most: int
    payees: Halves
    items: Halves


CATEGORIES: dict[str, Category] = {
    "groceries": Category(
        join="from",
        most=120,
        payees=Halves(
            train=(
                "Green Basket",
                "Harvest Lane",
                "Corner Pantry",
                "Millstone Market",
                "Daily Crate",
                "Orchard & Sons",
                "Fresh Fork",
                "Penny Larder",
                "Brookside Foods",
                "The Grain Store",
                "Sunny Acres",
                "Bellweather Market",
            ),
            test=("Copper Kettle Foods", "Meadow Stores", "Redwood Pantry", "Tilly's Market", "The Olive Shelf"),
        ),
        items=Halves(
            train=("vegetables", "the weekly shop", "bread and milk", "fruit", "groceries", "eggs and cheese"),
            test=("rice and beans", "the big food shop", "potatoes and onions", "pasta and butter"),
        ),
    ),
    "health": Category(
        join="at",
        most=180,
        payees=Halves(
            train=(
                "Clearview Dental",
                "Oakfield Clinic",
                "Harbour Pharmacy",
                "Dr. Lindqvist",
                "Willow Physio",
                "Summit Eye Care",
                "Northgate Surgery",
                "Dr. Osei",
                "Balance Clinic",
                "Rosewood Pharmacy",
                "Kestrel Health",
                "Bright Smile",
            ),
            test=("Lakeside Dental", "Dr. Marchetti", "Elm Street Pharmacy", "Pioneer Clinic", "Vista Opticians"),
        ),
        items=Halves(
            train=("a dental check-up", "medicine", "an eye test", "a doctor's visit", "physiotherapy", "a blood test"),
            test=("a tooth filling", "painkillers", "a flu shot", "new contact lenses"),
        ),
    ),
    "leisure": Category(
        join="at",
        most=90,
        payees=Halves(
            train=(
                "Odeon Palace",
                "Starlight Cinema",
                "Rock Garden Climbing",
                "Blue Note Hall",
                "City Museum",
                "Alley Kings",
                "Paper Moon Theatre",
                "Maple Leaf Pool",
                "The Vinyl Room",
                "Castle Gardens",
                "Pixel Arcade",
                "Grand Opera House",
            ),
            test=("Velvet Stage", "Moonlight Drive-In", "Riverbank Gallery", "Thunder Lanes", "The Comedy Cellar"),
        ),
        items=Halves(
            train=("cinema tickets", "a concert", "the museum", "bowling", "a swim", "theatre seats"),
            test=("a film", "the art exhibition", "mini golf", "tickets for the show"),
        ),
    ),
    "meals": Category(
        join="at",
        most=80,
        payees=Halves(
            train=(
                "Noodle Bar",
                "Casa Verde",
                "The Rusty Spoon",
                "Sakura House",
                "Bombay Corner",
                "Café Lumière",
                "Two Olives",
                "Burger Barn",
                "La Piazza",
                "Golden Wok",
                "Anchor Grill",
                "Pickle & Rye",
            ),
            test=("Saffron Table", "The Blue Plate", "Taco Lagoon", "Bistro Nord", "Dumpling Yard"),
        ),
        items=Halves(
            train=("lunch", "dinner", "coffee and cake", "breakfast", "a pizza", "sandwiches"),
            test=("brunch", "a bowl of soup", "supper", "burgers and fries"),
        ),
    ),
    "travel": Category(
        join="with",
        most=300,
        payees=Halves(
            train=(
                "Northline Rail",
                "Swift Cabs",
                "Aurora Air",
                "Metro Link",
                "Blue Ferry",
                "Coastal Coaches",
                "Comet Taxis",
                "Skybridge Airways",
                "Valley Trains",
                "Zip Scooters",
                "Atlas Car Hire",
                "Harbour Shuttle",
            ),
            test=("Falcon Airlines", "Eastern Express", "Lagoon Water Taxi", "Rapid Coach", "Juniper Rentals"),
        ),
        items=Halves(
            train=("a train ticket", "a taxi", "a flight", "the bus pass", "the ferry", "a rental car"),
            test=("a coach seat", "a cab ride", "two plane tickets", "the airport transfer"),
        ),
    ),
    "utilities": Category(
        join="from",
        most=200,
        payees=Halves(
            train=(
                "Lumen Power",
                "Clearwater Board",
                "Fibernet",
                "Gaslight Energy",
                "Civic Waste",
                "Volt & Co",
                "Pulse Mobile",
                "Homestead Energy",
                "Aqua North",
                "Beacon Net",
                "Ember Heating",
                "Signal One",
            ),
            test=("Solaris Energy", "Riverside Water", "Quickline Internet", "Torch Gas", "Nimbus Telecom"),
        ),
        items=Halves(
            train=("the electricity bill", "the water bill", "internet", "the gas bill", "the phone bill", "heating"),
            test=("the power bill", "broadband", "the mobile plan", "the waste collection fee"),
        ),
    ),
}

PEOPLE = Halves(
    train=("Priya", "Tom", "Amara", "Jonas", "Mei", "Carlos", "Fatima", "Olga", "Ben", "Yuki", "Nadia", "Sam"),
    test=("Ingrid", "Kwame", "Leila", "Mateo", "Hana", "Viktor"),
)

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

# How an amount may be written, by ISO code; the number keeps two decimals unless it is whole.
AMOUNT_FORMS: dict[str, tuple[str, ...]] = {
    "CHF": ("{number} francs", "CHF {number}", "{number} CHF"),
    "EUR": ("{number} euros", "€{number}", "EUR {number}", "{number} EUR"),
    "GBP": ("{number} pounds", "£{number}", "GBP {number}", "{number} GBP"),
    "USD": ("{number} dollars", "${number}", "USD {number}", "{number} USD"),
}

DATE_FORMS = ("{day} {month}", "{month} {day}", "{day} {short}", "{short} {day}", "the {ordinal} of {month}")

TEMPLATES = Halves(
    train=(
        "{item} {join} {payee} came to {amount} on {date}.",
        "Paid {amount} for {item} {join} {payee} on {date}.",
        "{date}: {item} {join} {payee}, {amount}.",
        "Spent {amount} on {item} {join} {payee}, {date}.",
        "On {date} I paid {payee} {amount} for {item}.",
        "{payee} charged me {amount} for {item} on {date}.",
        "Remember to pay {payee} {amount} for {item} by {date}.",
        "Reminder: {item} {join} {payee}, {amount}, due {date}.",
        "{item} {join} {payee} for {person} and me was {amount}, {date}.",
        "{person} and I split {item} {join} {payee} on {date}; my share was {amount}.",
        "Owe {payee} {amount} for {item}, to be settled by {date}.",
        "{amount} to {payee} for {item}, {date}.",
        "Invoice from {payee}: {amount} for {item}, pay before {date}.",
        "Card payment {date} {payee} {amount} ({item}).",
        "I covered {item} {join} {payee} for {amount} on {date}.",
        "Told {person} that {item} {join} {payee} cost {amount} on {date}.",
        "{payee} wants {amount} for {item} no later than {date}.",
        "Don't forget {payee}: {amount} for {item}, due on {date}.",
        "{date} - {payee} - {amount} - {item}",
        "{person} booked {item} {join} {payee} for {date}, {amount} in total.",
        "Transfer {amount} to {payee} on {date} for {item}.",
        "The receipt from {payee} says {amount} for {item}, {date}.",
        "For {item} {join} {payee} I paid {amount} on {date}.",
        "{item}: {amount}, {payee}, {date}.",
        "My bill {join} {payee} on {date} was {amount} for {item}.",
        "Please refund {person} {amount} for {item} {join} {payee} on {date}.",
        "Direct debit to {payee} of {amount} leaves on {date} for {item}.",
        "It cost {amount} to get {item} {join} {payee} on {date}.",
        "Yesterday, {date}, {payee} took {amount} off my card for {item}.",
        "{payee}, {date}: {item} for {person}, {amount}.",
        "Still have to pay for {item} {join} {payee}: {amount} by {date}.",
        "Settled {item} {join} {payee} on {date} and it was only {amount}.",
        "Next payment to {payee} is {amount} on {date} for {item}.",
        "{person} asks if {amount} for {item} {join} {payee} on {date} is right.",
        "{item} on {date}, {amount} in all, paid to {payee}.",
        "Expense claim: {item}, {payee}, {date}, {amount}.",
    ),
    test=(
        "Went for {item} {join} {payee} on {date}, which set me back {amount}.",
        "{payee} sent a bill of {amount} for {item}; it has to be paid until {date}.",
        "Put {amount} aside for {item} {join} {payee} on {date}.",
        "{person} and me, {item} {join} {payee} on {date}, I put in {amount}.",
        "Note to self: {payee} gets {amount} for {item} on {date}.",
        "{amount} went to {payee} on {date}. It was for {item}.",
        "Log {date}, {amount}, {item} {join} {payee}.",
        "{person} asked about {item}: we paid {payee} {amount} on {date}.",
        "{item} will be {amount}, payable to {payee} on {date}.",
        "Can you wire {payee} the {amount} for {item} before {date}?",
        "Sorted out {item} {join} {payee} for {person} on {date}, {amount} altogether.",
        "Upcoming on {date}: {payee}, {item}, {amount}.",
        "Cash, {amount}, {item}, {payee}, {date}.",
        "As of {date} {payee} is owed {amount} for {item}.",
        "That was {amount} for {item} {join} {payee}, dated {date}.",
        "{person}'s treat on {date}: {item} {join} {payee}, {amount}.",
        "Paying {payee} for {item} on {date} used up {amount}.",
        "From my account on {date}: {amount} for {item}, recipient {payee}.",
    ),
)
