"""Functions of places without rows.

These are of clients that keep no journal: what a process has on its way is counted under its number, and held
for a whole window where that process dies.
"""

from typing import Final

PLACES: Final = """
-- The same for places without rows. p_call null: of a process that has ended. False: another was first to change what is known of the window.
create function novita.settle_1(p_me bigint, p_window int, p_images int[], p_fate int[], p_hold float8[], p_gate float8[],
  p_cause text[], p_error text[], p_announced float8[], p_version bigint, p_known text, p_taken int, p_call bigint)
returns bool language plpgsql as $$
declare t float8; win novita."window"; k int; mine novita.place; total int := (select sum(x) from unnest(p_images) x);
begin
  perform 1 from novita.account where label = (select account from novita."window" where id = p_window) for update;
  select * into win from novita."window" where id = p_window for update;
  select * into mine from novita.place where worker = p_me and "window" = p_window;
  if mine.call >= p_call or mine.images < total then return true; end if;    -- carried out before
  if win.quota is null and win.version <> p_version then return false; end if;
  t := novita.now();
  for k in 1..cardinality(p_images) loop
    perform novita.verdict_1(case when win.quota is not null then p_window end, p_images[k], p_fate[k], p_hold[k],
      p_cause[k], p_error[k], p_gate[k], win.account, p_announced[k], t);
  end loop;
  update novita.place set images = images - total, call = coalesce(p_call, call), granted = null
    where worker = p_me and "window" = p_window;
  if win.quota is null then
    update novita."window" w set state = p_known, version = w.version + 1, held = p_taken where id = p_window;
  end if;
  return true;
end $$;

-- Places of a process that has ended: what the pacer counts itself is not told here.
create function novita.places_1(p_dead bigint)
returns table ("window" int, images int, endpoint text, quota int, version bigint, state text) language sql as $$
  select p."window", p.images, w.endpoint, w.quota, w.version, w.state from novita.place p join novita."window" w on w.id = p."window"
  where p.worker = p_dead and p.images > 0
$$;
"""
"""Text that makes them."""
