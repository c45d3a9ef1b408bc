"""The function that takes places and money, and writes announcements."""

from typing import Final

from novita_async._journal.postgres.schema.columns import ARRAYS, CHANGES, NAMES, PARAMETERS

ADMITTING: Final = f"""
-- Take places and money and write the announcements: in the order that is given, as far as they fit. p_batch null:
-- places without rows. `granted` and `refused` are numbers of what was given, from 1.
-- p_known: where the quota is not known, what the pacer knows once all that is offered is announced.
-- A process that finds no place stands in line with the first that found none: its place is kept free by those behind,
-- which may take what is left. share: images of its part of what is free once `delay` is over.
create function novita.admit_1(
  p_me bigint, p_batch int, p_window int, p_serial bigint[], p_moves int[], p_images int[], p_cost numeric[],
  p_patience float8, p_slot text[], p_version bigint, p_known text, p_taken int, p_call bigint, {PARAMETERS},
  out granted int[], out refused int[], out delay float8, out why text, out latest bigint, out known text,
  out share int
) language plpgsql as $$
declare
  win novita."window"; money novita.budget; t float8; used int; total numeric := 0; k int := 0;
  ahead int := 0; need int; since_me float8; limited bool := false; valid int[]; room float8; acc record;
  offered int := cardinality(p_images); price numeric; mine novita.place; learning bool; written int; alone bool;
begin
  granted := '{{}}'; refused := '{{}}'; delay := 0; share := 0;
  perform novita.durable_1();
  if not novita.steady_1() then why := 'quiet'; delay := 0.3; return; end if;
  if p_batch is not null then
    select holder = p_me into alone from novita.batch where id = p_batch for share;
    select * into money from novita.budget where batch = p_batch for update;
    limited := found;
  end if;
  select * into acc from novita.open_1(p_me, (select account from novita."window" where id = p_window), novita.now());
  select * into win from novita."window" where id = p_window for update;
  t := novita.now();
  if not exists (select from novita.worker where id = p_me and ended is null) then
    why := 'buried'; return;
  end if;
  if p_batch is null then
    valid := array(select generate_series(1, offered));
    select * into mine from novita.place where worker = p_me and "window" = p_window;
    if mine.call >= p_call then
      granted := mine.granted; latest := win.version; known := win.state; return;
    end if;
  else
    valid := array(
      select u.n from unnest(p_serial, p_moves) with ordinality u(serial, moves, n)
        join novita.course c on c.serial = u.serial and c.moves = u.moves
      where c.batch = p_batch and c.serial = any(p_serial) and (c.owner = p_me or alone and c.owner is null));
    refused := array(select x from generate_series(1, offered) x where x <> all(valid));
  end if;
  learning := win.quota is null;
  latest := win.version; known := win.state; used := win.held;
  if not learning then
    used := used - novita.let_go(p_window, t);
    delete from novita.waiting where "window" = p_window and expires < t;
    select since into since_me from novita.waiting where "window" = p_window and worker = p_me;
    select coalesce(sum(images), 0) into ahead from novita.waiting
      where "window" = p_window and worker <> p_me and since < coalesce(since_me, 'infinity');
  end if;
  if acc.most = 0 then
    delay := acc.delay; why := acc.why;
  elsif learning and (p_known is null or win.version <> p_version) then
    why := 'moved';
  else
    for k in 1..offered loop
      continue when k <> all(valid);
      price := coalesce(p_cost[k], money.price * p_images[k], 0);
      if not learning and used + ahead > 0 and used + ahead + p_images[k] > win.quota then
        why := 'window'; exit;
      end if;
      if limited and money.spent + total + price > money."limit" then why := 'spent'; exit; end if;
      if limited and money.spent + money.reserved + total + price > money."limit" then
        why := 'reserved'; delay := 0.25; exit;
      end if;
      if cardinality(granted) >= acc.most then why := 'probe'; delay := 1; exit; end if;
      granted := granted || k; used := used + p_images[k]; total := total + price;
    end loop;
    if learning and cardinality(granted) between 1 and offered - 1 then -- the state counts all of them
      refused := array(select x from generate_series(1, offered) x where x <> all(granted));
      why := 'fewer';
    end if;
  end if;
  if cardinality(granted) > 0 and why is distinct from 'fewer' then
    if p_batch is null then
      insert into novita.place as p values (p_me, p_window, (select sum(p_images[x]) from unnest(granted) x), p_call, granted)
        on conflict (worker, "window") do update set images = p.images + excluded.images, call = p_call, granted = excluded.granted;
    else
      with u as (
        select * from unnest(p_serial, p_images, p_cost, p_slot, {ARRAYS}) with ordinality
          as u(serial, images, new_cost, new_slot, {NAMES}, n) where u.n = any(granted)
      )
      update novita.course c set moves = c.moves + 1, "window" = p_window, slot = u.new_slot,
        cost = case when limited then coalesce(u.new_cost, money.price * u.images) else u.new_cost end, {CHANGES}
      from u where c.batch = p_batch and c.serial = any(p_serial) and c.serial = u.serial and c.moves = p_moves[u.n];
      get diagnostics written = row_count;
      if written < cardinality(granted) then                     -- one has moved since it was looked at: once more
        raise exception 'novita: a row has moved' using errcode = '40001';
      end if;
      if limited then update novita.budget set reserved = reserved + total where batch = p_batch; end if;
    end if;
    if learning then
      update novita."window" w set state = p_known, version = w.version + 1, held = p_taken where id = p_window;
      latest := win.version + 1; known := p_known;
    end if;
  elsif acc.most = 1 then
    perform novita.withdrawn_1(win.account, t);
  end if;
  if learning then return; end if;
  if used <> win.held then update novita."window" set held = used where id = p_window; end if;
  if why = 'window' then                                         -- stand in line, and say when it may be my turn
    k := coalesce((select min(x) from unnest(valid) x where x <> all(granted)), 1);
    insert into novita.waiting values (p_window, p_me, t, p_images[k], t + p_patience)
      on conflict ("window", worker) do update set images = excluded.images, expires = excluded.expires,
        since = case when cardinality(granted) > 0 then excluded.since else novita.waiting.since end;
    need := used + ahead + p_images[k] - win.quota;
    select s.until - t into room from (
      select until, sum(images) over (order by until) total from novita.slot where "window" = p_window) s
      where s.total >= least(need, used) order by s.until limit 1;
    delay := least(greatest(coalesce(room, p_patience / 4), 0.01), p_patience / 2);
    select win.quota - used - ahead + coalesce(sum(images), 0) into share from novita.slot
      where "window" = p_window and until < t + delay + 0.1;
    share := share / (select count(*) from novita.waiting where "window" = p_window);
  elsif since_me is not null then
    delete from novita.waiting where "window" = p_window and worker = p_me;
  end if;
end $$;
"""  # noqa: S608 - constant
"""Text that makes it."""
