"""Content of the made-up history: assistants with their tools, questions and answers. `history` creates the objects."""

from __future__ import annotations

from dataclasses import dataclass

from nbruns.text import JSON


@dataclass(frozen=True)
class Call:
    """A tool that an assistant can call: the median duration of its answer in seconds, and a sample answer."""

    name: str
    description: str
    parameter: str
    values: tuple[str, ...]
    seconds: float
    outputs: tuple[str, ...]

    def to_json(self) -> JSON:
        """Return the tool as the API's JSON."""
        parameters = {
            "type": "object",
            "properties": {self.parameter: {"type": "string"}},
            "required": [self.parameter],
        }
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Scene:
    """An assistant: how often it is used, its models, its tools, and its texts."""

    name: str
    team: str
    share: float
    #: The model until the last third of the history, and the one from then on.
    models: tuple[str, str]
    instructions: str
    prompt_tokens: int
    answer_tokens: int
    #: Average number of rounds of tool calls per run.
    rounds: float
    calls: tuple[Call, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """The speed of a model: seconds before its first token, and tokens per second."""

    delay: float
    speed: float
    #: Reasoning tokens for each token of the answer.
    reasoning: float = 0.0


MODELS = {
    "gpt-4o": Model(0.9, 70),
    "gpt-4o-mini": Model(0.5, 110),
    "gpt-4.1": Model(1.1, 80),
    "gpt-4.1-mini": Model(0.6, 130),
    "o4-mini": Model(2.5, 90, reasoning=4.0),
}

_ORDERS = tuple(f"A-{number}" for number in range(20411, 20460))
_CITIES = ("Oslo", "Bergen", "Trondheim", "Tromsø", "Stavanger", "København", "Malmö")

SCENES = (
    Scene(
        name="Support",
        team="support",
        share=0.55,
        models=("gpt-4o", "gpt-4o-mini"),
        instructions="You answer customers of a shop for outdoor clothing. Look orders up before you speak of them.",
        prompt_tokens=620,
        answer_tokens=150,
        rounds=1.2,
        calls=(
            Call(
                "find_order",
                "Find an order by its number.",
                "order",
                _ORDERS,
                1.2,
                (
                    '{"status": "shipped", "carrier": "Bring", "expected": "tomorrow"}',
                    '{"status": "packing", "items": 3}',
                    '{"error": "no such order"}',
                ),
            ),
            Call(
                "search_help",
                "Search the help pages.",
                "query",
                ("return policy", "size guide", "wash wool", "gift card", "delivery time"),
                0.8,
                (
                    '["You can return within 30 days.", "Returns are free in Norway."]',
                    '["Wool: 30 °C, by hand or wool programme."]',
                ),
            ),
            Call(
                "open_case",
                "Hand over to a colleague.",
                "reason",
                ("damaged parcel", "refund", "angry customer"),
                2.0,
                ('{"case": 88213, "queue": "refunds"}',),
            ),
        ),
        questions=(
            "Where is my order {order}?",
            "I would like to return the jacket from {order}, it is too small.",
            "How do I wash merino wool?",
            "{order} arrived with a broken zip. What now?",
            "Do you deliver to {city}?",
            "My gift card does not work.",
        ),
        answers=(
            "Your order **{order}** is on its way with Bring and should be with you tomorrow.",
            "I am sorry to hear that. You can return it free of charge within 30 days:\n\n1. open *My orders*\n"
            "2. choose **Return**\n3. print the label",
            "Wash it at 30 °C with the wool programme, and let it dry lying flat.",
            "We deliver to {city} within two to four days.",
            "I have handed this to a colleague, who will write to you today.",
        ),
    ),
    Scene(
        name="Analyst",
        team="data",
        share=0.2,
        models=("gpt-4.1", "gpt-4.1"),
        instructions="You answer questions about sales with SQL. Query first, then explain the numbers briefly.",
        prompt_tokens=1900,
        answer_tokens=320,
        rounds=2.4,
        calls=(
            Call(
                "query_warehouse",
                "Run a SQL query.",
                "sql",
                (
                    "SELECT month, SUM(total) FROM orders GROUP BY month",
                    "SELECT product, COUNT(*) FROM returns GROUP BY product ORDER BY 2 DESC LIMIT 10",
                    "SELECT country, AVG(total) FROM orders GROUP BY country",
                ),
                6.0,
                (
                    '[["2026-09", 412033], ["2026-10", 398211]]',
                    '[["Fjell jacket", 41], ["Bre trousers", 17]]',
                    '{"error": "statement timeout"}',
                ),
            ),
            Call(
                "describe_table",
                "Tell a table's columns.",
                "table",
                ("orders", "returns", "products"),
                0.7,
                ('["id", "month", "product", "country", "total"]',),
            ),
        ),
        questions=(
            "How did sales in {city} develop over the last three months?",
            "Which products are returned most, and why might that be?",
            "Compare the average basket by country.",
            "Is the drop last week real, or a reporting delay?",
        ),
        answers=(
            "| month | sales |\n|---|---|\n| September | 412,033 |\n| October | 398,211 |\n\nThat is **3.4 %** less, "
            "within what October usually brings.",
            "The *Fjell jacket* leads with 41 returns; three in four name the size.",
            "Baskets in {city} are about a tenth larger than the average.",
        ),
    ),
    Scene(
        name="Copywriter",
        team="marketing",
        share=0.15,
        models=("gpt-4o", "gpt-4o"),
        instructions="You write product texts: short, concrete, no superlatives.",
        prompt_tokens=450,
        answer_tokens=520,
        rounds=0.0,
        calls=(),
        questions=(
            "Write 80 words about a rain jacket for people who cycle in {city}.",
            "Three subject lines for the autumn newsletter, please.",
            "Shorten this text to half its length and keep the washing instructions.",
        ),
        answers=(
            "Rain in {city} comes sideways. This jacket knows: a longer back, a hood that fits under a helmet, and "
            "seams that stay shut.",
            "- Autumn, packed\n- Warm without the weight\n- What to wear when {city} can't decide",
        ),
    ),
    Scene(
        name="Planner",
        team="logistics",
        share=0.1,
        models=("o4-mini", "o4-mini"),
        instructions="You plan delivery rounds. Check the stock and the weather, then propose a plan.",
        prompt_tokens=800,
        answer_tokens=260,
        rounds=1.7,
        calls=(
            Call(
                "get_stock",
                "Tell the stock of a warehouse.",
                "warehouse",
                _CITIES,
                1.5,
                ('{"pallets": 38}', '{"pallets": 4, "note": "low"}'),
            ),
            Call(
                "get_weather",
                "Tell the weather in a city.",
                "city",
                _CITIES,
                0.6,
                ('"Light rain, 3 °C"', '"Snow, −4 °C, wind 12 m/s"'),
            ),
        ),
        questions=(
            "Plan tomorrow's round from {city}: 14 stops, two vans.",
            "Can we move Friday's delivery to {city} forward?",
        ),
        answers=(
            "Yes, if the second van starts at 06:30. The pass will be clear until noon.",
            "1. Van A: north loop, 8 stops\n2. Van B: {city} centre, 6 stops\n\nBoth are back by 15:00.",
        ),
    ),
)

#: Values for the placeholders in questions and answers.
FILLINGS = {"order": _ORDERS, "city": _CITIES}
