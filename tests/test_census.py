"""The census counts what a program launches, loop by loop, and its programs are those of the library."""

import jax
import jax.numpy as jnp
import pytest

from experiments.accelerator import census, hlo, programs, purejaxrl, targets

PROGRAM = """HloModule m, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%product (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  ROOT %dot.1 = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%inner (s: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %s = (s32[], f32[4,4]{1,0}) parameter(0)
  %x = f32[4,4]{1,0} get-tuple-element(%s), index=1
  %y = f32[4,4]{1,0} fusion(%x), kind=kLoop, calls=%product, backend_config={"estimated_cycles":"30"}
  ROOT %t = (s32[], f32[4,4]{1,0}) tuple(%x, %y)
}

%test (s: (s32[], f32[4,4])) -> pred[] {
  %s = (s32[], f32[4,4]{1,0}) parameter(0)
  ROOT %less = pred[] custom-call(%s), custom_call_target="less"
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %c = f32[4]{0} copy(%a), backend_config={"estimated_cycles":"5"}
  %r = f32[4]{0} all-reduce-start(%c), to_apply=%test
  %w = (s32[], f32[4,4]{1,0}) while(%c), condition=%test, body=%inner, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %k = f32[4]{0} custom-call(%w), custom_call_target="__cublas$gemm"
}
"""


def test_launches_and_cycles_are_counted_loop_by_loop():
    found = hlo.count(PROGRAM)
    assert found.kinds == {"copy": 1, "all-reduce-start": 1, "custom-call __cublas": 1}
    ((trips, leaves, body),) = found.loops
    assert (trips, leaves, body.kinds) == (7, 2, {"fusion with product": 1})
    assert (found.own, found.launches, found.cycles) == (3, 3 + 7, 5 + 7 * 30)
    assert hlo.collectives(PROGRAM) == {"all-reduce": 1}


def test_a_compiled_scan_has_its_trips():
    def double(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=9)[0]

    found = hlo.count(jax.jit(double).lower(jnp.ones((8, 8))).compile().as_text() or "")
    assert [trips for trips, _, _ in found.loops] == [9]
    assert found.launches == found.own + 9 * found.loops[0][2].launches > 9


def test_programs_are_updates_of_all_algorithms_and_those_of_the_command():
    known = programs.all_programs()
    assert {f"update {name} 2048" for name in ("reinforce", "a2c", "ppo", "trpo")} < {*known}
    device = jax.devices()[:1]
    for name in ("update ppo 1", "start ppo 2048"):
        assert name in known
    compiled = programs.compile_update(lambda: programs.algorithm("a2c", hidden=(4,)), 3, device)
    assert hlo.count(compiled.as_text() or "").launches > 0


@pytest.mark.parametrize("name", ["h101", "", "h100:0", "cuda"])
def test_an_unknown_target_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match="must be h100, h200, h100:COUNT or v5e:2x2"):
        targets.devices(name)


def test_the_table_has_a_row_for_every_program():
    row = hlo.count(PROGRAM).to_dict() | {"seconds": 1.2, "collectives": {"all-reduce": 1}, "temporary_bytes": 2e6}
    text = census.table({"h100: update ppo 1": row, "v5e: update ppo 1": {"error": "ValueError: a | b"}})
    assert "| update ppo 1 | h100 | 10 | 3 | 0.00 M | 2 | 0 | 1 all-reduce | 1 |" in text
    assert "| update ppo 1 | v5e | ValueError: a / b |" in text
    assert census.loops(row) == ["x 7, 2 leaves: 1 launches (1 fusion with product)"]


def test_of_a_complete_training_the_loop_over_updates_is_counted():
    body = {"trips": 10, "own": 3, "launches": 7, "kinds": {"fusion": 3}, "loops": [{"trips": 4}]}
    row = {"launches": 99, "own": 29, "loops": [{"trips": 5}, body], "seconds": 1.0}
    found = purejaxrl.of_one_update(row)
    assert found == row | {"launches": 7, "own": 3, "kinds": {"fusion": 3}, "loops": [{"trips": 4}]}


def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"has no purejaxrl/ppo\.py"):
        purejaxrl.its_ppo(tmp_path)
