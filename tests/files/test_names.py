"""Names of result files: safe, of a length that every file system takes, and made without a URL."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from novita_async import ConfigurationError, DownloadFailed, Failed, Img2Img, Succeeded
from novita_async._files.names import LONGEST_NAME, NameTemplate, beginning_with, chosen, safe_name
from tests.helpers.hosts import Host, Saving, result_of
from tests.helpers.service import client_of, picture, request, requests, service

CHINESE = "一只可爱的狐狸在森林里，" * 10
NAME_MAX = 255


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../dog: 1", "dog_1"),
        ("a/b\\c", "a_b_c"),
        ("", "file"),
        ("...", "file"),
        ("-_-", "-_-"),
        ("हिन्दी", "हिन्दी"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ud83d half an emoji", "half_an_emoji"),
        ("\0\n\x1b[31mred", "31mred"),
        ("a" * 300, "a" * 120),
        ("狐" * 300, "狐" * 40),
        ("a" + "狐" * 300, "a" + "狐" * 39),
        ("a" * 119 + "._b", "a" * 119),
    ],
)
def test_a_name_keeps_letters_of_all_scripts_and_is_cut_between_them(text, name):
    assert safe_name(text) == name


@given(text=st.text(), longest=st.integers(4, 200))
@example(text="e" + "\u0301" * 2000, longest=10)
def test_a_name_is_never_longer_than_its_bound_in_bytes_and_leads_nowhere(text, longest):
    name = safe_name(text, longest)
    assert 0 < len(name.encode()) <= longest
    assert not {"/", "\\", "\0"} & set(name)
    assert name[0] not in "._"


@pytest.mark.anyio
@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("stem", [CHINESE, "a" * 5000, "\U0001f98a" * 300, "f" * 119 + "狐"])
async def test_names_fit_with_number_suffix_and_part(tmp_path, owned, stem):
    """Also where the next free number is needed, and where the service states an endless kind."""
    saving = Saving(Host.of(picture()))
    result = result_of("png", "z" * 300, task_id=stem)
    for times in (1, 2):
        paths = await saving.saver.save(result, tmp_path, owned=owned and times == 1)
        assert all(len(path.name.encode()) <= NAME_MAX for path in paths)
    naming = NameTemplate("{id}-{task_id}-{n}.{ext}").of(index=0, seed=None, task_id=stem, tag=stem)
    (path, _) = await saving.saver.save(result, tmp_path, naming, owned=owned)
    assert len(path.name.encode()) <= LONGEST_NAME + len(".png")
    assert all(len(path.name.encode()) <= NAME_MAX for path in tmp_path.iterdir())


@pytest.mark.anyio
@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_a_prompt_in_another_script_can_be_the_name_of_a_batch(tmp_path, journal):
    many = [*requests(2), request(prompt=CHINESE), *requests(2, prompt="a lynx")]
    async with client_of(service()) as (client, _):
        naming = {"save_to": tmp_path / "out", "save_as": lambda outcome: outcome.request.prompt}
        stream = client.batch(many, journal=tmp_path / journal, **naming) if journal else None
        async with stream or client.stream(many, **naming) as outcomes:
            assert [type(outcome) async for outcome in outcomes] == [Succeeded] * 5
    assert {path.name[:3] for path in (tmp_path / "out").glob("*.png")} == {"a_c", "a_l", "一只可"}


def test_a_prompt_of_a_request_may_be_any_text():
    assert beginning_with(Img2Img(model_name="m", image=picture(), prompt="狐" * 1000).prompt)(2, "png") == (
        "狐" * 40 + "-2.png"
    )


# --- Templates ----------------------------------------------------------------------------------------------


async def run(client, many, journal=None, **options):
    stream = client.batch(many, journal=journal, **options) if journal else client.stream(many, **options)
    async with stream as outcomes:
        return [outcome async for outcome in outcomes]


def pictures_in(folder):
    return sorted(path.name for path in folder.glob("*.png"))


@pytest.mark.anyio
@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_files_are_called_as_a_template_says(tmp_path, journal):
    template = "{index:03d}_{seed}_{n}.{ext}"
    async with client_of(service()) as (client, _):
        journal = journal and tmp_path / journal
        await run(client, requests(2, image_num=2), journal, save_to=tmp_path, save_as=template)
    assert pictures_in(tmp_path) == ["000_0_1.png", "000_0_2.png", "001_1_1.png", "001_1_2.png"]


@pytest.mark.anyio
async def test_names_that_are_alike_are_numbered_and_no_file_is_written_over(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    async with client_of(service()) as (client, _):
        await run(client, requests(2), save_to=tmp_path, save_as="a.{ext}")
    assert pictures_in(tmp_path) == ["a.2.png", "a.3.png", "a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"mine"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("../{n}.{ext}", "not elsewhere"),
        ("a\\{n}.{ext}", "not elsewhere"),
        ("{n}", "must end with"),
        ("{n.__class__}.{ext}", "no field"),
        ("{url}.{ext}", "no field {url}"),
        ("{}.{ext}", "no field {}"),
        ("{n.{ext}", "in field name"),
        ("{task_id:d}.{ext}", "Unknown format code"),
        ("{id:d}.{ext}", "Unknown format code"),
        ("狐" * 67 + "{n}.{ext}", "longer than 200 bytes"),
        ("{n:0200d}.{ext}", "longer than 200 bytes"),
    ],
)
async def test_a_template_that_makes_no_names_is_refused_before_anything_is_bought(tmp_path, template, why):
    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(ConfigurationError, match=why):
            await run(client, requests(1), tmp_path / "run.db", save_to=tmp_path, save_as=template)
    assert simulation.ledger.entries == []


def test_a_template_of_the_greatest_length_is_taken():
    assert NameTemplate("{n:0199d}.{ext}").of(index=0, seed=1, task_id="t")(7, "png").endswith("7.png")


def test_a_result_without_a_seed_has_a_name_all_the_same():
    naming = NameTemplate("{seed:05d}-{task_id}-{n}.{ext}").of(index=0, seed=None, task_id="t")
    assert naming(2, "png") == "none-t-2.png"


def test_an_id_of_the_users_own_is_made_safe_and_where_there_is_none_the_place_stands_for_it():
    template = NameTemplate("{id}-{n}.{ext}")
    assert template.of(index=7, seed=1, task_id="t", tag="../sku 1")(1, "png") == "sku_1-1.png"
    assert template.of(index=7, seed=1, task_id="t")(1, "png") == "00007-1.png"


# --- A function of the caller's -----------------------------------------------------------------------------


def outcome():
    return Succeeded(result=result_of("png"))


def test_a_name_is_what_the_callers_function_gives():
    assert chosen(lambda outcome: f"dog {outcome.task_id}", outcome()) == "dog t-1"


@pytest.mark.parametrize(
    ("save_as", "why"),
    [
        (lambda _: 1 / 0, "save_as raised ZeroDivisionError: division by zero"),
        (lambda outcome: outcome.request.prompt, "save_as raised AttributeError"),
        (lambda _: None, "save_as gave NoneType, not text"),
    ],
)
def test_a_function_that_gives_no_name_is_one_requests_error_with_its_task(save_as, why):
    with pytest.raises(DownloadFailed, match=why) as caught:
        chosen(save_as, outcome())
    assert (caught.value.task_id, caught.value.account, caught.value.scope) == ("t-1", "main", "request")
    assert str(caught.value) == (
        f"not saved: {caught.value.cause}: paid and finished; novita-async watch t-1 --out DIR"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_a_function_that_raises_spoils_one_request_of_a_stream_and_the_next_run_saves_it(
    tmp_path, journal
):
    def save_as(outcome):
        if outcome.request.seed == 1:
            raise KeyError("no such name")
        return "dog"

    simulation, out = service(), tmp_path / "out"
    async with client_of(simulation) as (client, _):
        got = await run(
            client, requests(4), journal and tmp_path / journal, save_to=out, save_as=save_as, in_flight=1
        )
        assert [type(outcome) for outcome in got] == [Succeeded, Failed, Succeeded, Succeeded]
        assert got[1].task_id is not None
        if journal:
            again = await run(client, requests(4), tmp_path / journal, save_to=out)
            assert [type(outcome) for outcome in again] == [Succeeded] * 4
    assert len(simulation.ledger.accepted) == 4
