"""How a conversation with tools is put to a small model."""

from __future__ import annotations

from conversations import MULTIPLY, WEATHER, Answer, asked, followed

from nbruns.server.models import Prompt, hermes

CALL = {
    "id": "call_a",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}
OSLO = asked("What should I wear in Oslo?", WEATHER)


def said(*texts: str) -> hermes.Messages:
    """A system message, then the user and the assistant in turn."""
    return [{"role": "system", "content": "S"}] + [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]


def test_a_call_is_begun_for_the_model() -> None:
    functions = [WEATHER, MULTIPLY]
    system, question, begun = hermes.naming(OSLO, functions)
    assert '"name": "get_weather"' in system["content"] and '"name": "multiply"' in system["content"]
    assert question == {"role": "user", "content": "What should I wear in Oslo?"}
    assert begun == {"role": "assistant", "content": '<tool_call>\n{"name": "'}
    *same, begun = hermes.filling(OSLO, functions, "multiply")
    assert same == [system, question]
    assert begun["content"] == '<tool_call>\n{"name": "multiply", "arguments": '


def test_outputs_are_put_below_the_question() -> None:
    system, question = hermes.answering(followed(OSLO, Answer(calls=[CALL]), "rain"))
    assert system["content"] == f"You are a helpful assistant. {hermes.FACTS}"
    facts = 'Facts from get_weather{"city": "Oslo"}: rain'
    assert question["content"] == f"What should I wear in Oslo?\n\n{facts}"


def test_instructions_are_joined_and_go_first() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        *OSLO.messages,
        {"role": "developer", "content": "Rhyme."},
    ]
    assert hermes.answering(Prompt("any", messages))[0] == {"role": "system", "content": "Be brief.\nRhyme."}
    assert hermes.answering(OSLO) == OSLO.messages


def test_the_oldest_messages_are_left_out_first() -> None:
    messages = said("one", "two", "three", "begun")
    once = hermes.shorter(messages)
    assert [message["content"] for message in once] == ["S", "two", "three", "begun"]
    assert [message["content"] for message in hermes.shorter(once)] == ["S", "three", "begun"]


def test_of_a_question_alone_the_middle_is_cut() -> None:
    system, question = hermes.shorter(said("A" * 50 + "B" * 50))
    assert system["content"] == "S"
    assert question["content"] == "A" * 25 + " … " + "B" * 25
