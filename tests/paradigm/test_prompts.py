import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import ParadigmError
from llm2bids.paradigm.prompts import COLUMNS, load_banks, read_bank
from llm2bids.paradigm.task import Prompt

TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
        lambda text: text.strip()
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda text: " ".join(text.casefold().split()),
)


def test_rows_are_prompts_in_the_order_of_the_file(write_bank):
    file = write_bank("c2\tcats\tpurring\tWhy purr?", "", "d1\tdogs\t\tZwölf Hunde…")
    assert read_bank(file) == (
        Prompt(prompt_id="c2", condition="cats", topic="purring", text="Why purr?"),
        Prompt(prompt_id="d1", condition="dogs", topic="", text="Zwölf Hunde…"),
    )


def test_columns_stand_in_any_order_beside_others(write_bank):
    file = write_bank("Why?\tme\tc1\tcats\tfur", header="text\tby\tprompt_id\tcondition\ttopic\n")
    assert read_bank(str(file))[0].text == "Why?"


@given(texts=TEXTS)
def test_a_written_table_reads_back(tmp_path_factory, texts):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter="\t")
    writer.writerow(COLUMNS)
    for number, text in enumerate(texts):
        writer.writerow([f"p{number}", "cats", 'a "topic"\twith tab', text])
    file = tmp_path_factory.mktemp("bank") / "bank.tsv"
    file.write_bytes(stream.getvalue().encode())
    assert [prompt.text for prompt in read_bank(file)] == texts


def test_byte_order_mark_and_windows_line_ends_are_taken(tmp_path):
    file = tmp_path / "bank.tsv"
    file.write_bytes(
        "prompt_id\tcondition\ttopic\ttext\r\nc1\tcats\t\tWhy?\r\n".encode("utf-8-sig")
    )
    assert read_bank(file)[0] == Prompt(prompt_id="c1", condition="cats", topic="", text="Why?")


@pytest.mark.parametrize(
    ("rows", "line", "problem"),
    [
        (["c1\tcats\t\tWhy?", "c1\tcats\t\tHow?"], 3, "column 'prompt_id': found 'c1' again"),
        (
            ["c1\tcats\t\tWhy so?", "c2\tcats\t\twhy  SO?"],
            3,
            "column 'text': found 'why  SO?' again",
        ),
        (["c1\tcats\t\tWhy?", "", "c2\tcats\t\t  "], 4, "column 'text': found nothing"),
        (["\tcats\t\tWhy?"], 2, "column 'prompt_id': found ''"),
        (["c 1\tcats\t\tWhy?"], 2, "column 'prompt_id': found 'c 1'"),
        (["c1\tmy_cats\t\tWhy?"], 2, "column 'condition': found 'my_cats'"),
        (["c1\tcats\tWhy?"], 2, "found 3 cells, expected 4"),
        (["c1\tcats\t\tWhy?\tmore"], 2, "found 5 cells, expected 4"),
        (['c1\tcats\t\t"two\nlines"', "c2\tcats\t"], 4, "found 3 cells"),
        (['c1\tcats\t\t"Who" is it?'], 2, "quotes do not fit"),
        (["c1\tcats\t\tWhy?", 'c2\tcats\t\t"open', "c3\tcats\t\tHow?"], 3, "quotes do not fit"),
    ],
)
def test_a_bad_row_is_named_with_its_line(write_bank, rows, line, problem):
    file = write_bank(*rows)
    with pytest.raises(ParadigmError) as error:
        read_bank(file)
    assert str(error.value).startswith(f"{file}, line {line}: ")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("prompt_id\tcondition\ttext\n", "line 1: column 'topic' is not there, found: prompt_id"),
        ("prompt_id,condition,topic,text\n", "line 1: column 'prompt_id' is not there"),
        ("prompt_id\tcondition\ttopic\ttext\ttext\n", "line 1: column 'text' is twice there"),
        ("", "line 1: column 'prompt_id' is not there, found: nothing"),
        ("prompt_id\tcondition\ttopic\ttext\n", "found no prompts"),
    ],
)
def test_a_bad_header_is_named(write_bank, header, problem):
    with pytest.raises(ParadigmError, match=problem):
        read_bank(write_bank(header=header))


def test_another_encoding_is_named_with_its_line(tmp_path):
    file = tmp_path / "bank.tsv"
    file.write_bytes(b"prompt_id\tcondition\ttopic\ttext\nc1\tcats\t\tWhy?\nc2\tcats\t\tCaf\xe9?\n")
    with pytest.raises(ParadigmError, match=r"bank\.tsv, line 3: found byte 0xe9.*not UTF-8"):
        read_bank(file)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ParadigmError, match=r"none\.tsv: found no such file, expected a prompt"):
        read_bank(tmp_path / "none.tsv")
    with pytest.raises(ParadigmError, match=r"found a folder, expected a prompt bank"):
        read_bank(tmp_path)


def test_one_table_can_hold_several_banks(write_bank, make_paradigm):
    file = str(write_bank("c1\tcats\t\tWhy?", "d1\tdogs\t\tHow?", "d2\tdogs\t\tWhat?"))
    banks = load_banks(make_paradigm(banks=(("dogs", file), ("cats", file))))
    ids = {name: [prompt.prompt_id for prompt in bank] for name, bank in banks.items()}
    assert ids == {"dogs": ["d1", "d2"], "cats": ["c1"]}


def test_a_bare_name_is_the_shipped_bank_whatever_the_working_folder_holds(
    write_bank, make_paradigm, monkeypatch, tmp_path
):
    write_bank("c1\tpathology\t\tWhy?", name="pathology.tsv")
    monkeypatch.chdir(tmp_path)
    banks = load_banks(make_paradigm(banks=(("pathology", "pathology.tsv"),)))
    assert len(banks["pathology"]) >= 128


def test_a_bank_without_its_condition_is_refused(write_bank, make_paradigm):
    file = str(write_bank("c1\tcats\t\tWhy?", "d1\tdogs\t\tHow?"))
    with pytest.raises(ParadigmError, match=r"no prompt of condition 'cows', but of: cats, dogs"):
        load_banks(make_paradigm(banks=(("cows", file),)))


@pytest.mark.parametrize(
    ("row", "column"), [("c1\tdogs\t\tHow?", "prompt_id"), ("d1\tdogs\t\tWhy?", "text")]
)
def test_banks_share_no_identifier_and_no_text(write_bank, make_paradigm, row, column):
    cats = str(write_bank("c1\tcats\t\tWhy?", name="cats.tsv"))
    dogs = str(write_bank(row, name="dogs.tsv"))
    with pytest.raises(ParadigmError, match=rf"dogs\.tsv, prompt .*column '{column}'.*cats\.tsv"):
        load_banks(make_paradigm(banks=(("cats", cats), ("dogs", dogs))))
