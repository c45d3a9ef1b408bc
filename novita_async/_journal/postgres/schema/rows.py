"""Functions of rows: written, taken, put back, claimed.

A row that a worker could not bring to its end (its pictures are not on that host, its files cannot be had, the
wait was given up) is *set aside*: that worker does not take it again, a later one does, once. So a batch that
nobody can end is complete for those who tried, and no two workers hand such a row to each other for ever.

A failover may forget what was confirmed last. For a while after one nobody buys, and each process says again
what it was told.
"""

from typing import Final

from novita_async._journal.postgres.schema.columns import ARRAYS, CHANGES, NAMES, PARAMETERS

ROWS: Final = f"""
-- Write what has become of rows that I own. Rows that are not mine any more, or have moved, are not in the answer.
-- p_me null: whoever owns them. p_todo: whether something is still to be done.
-- p_window, p_version, p_known: what is settled is of a window whose quota is not known; all rows are written, or none.
create function novita.move_1(
  p_me bigint, p_batch int, p_serial bigint[], p_moves int[], p_todo bool[], p_fate int[], p_spent bool[],
  p_hold float8[], p_gate float8[], p_cause text[], p_window int, p_version bigint, p_known text, p_taken int,
  {PARAMETERS}
) returns setof bigint language plpgsql as $$
declare t float8; f record; settles bool := exists (select from unnest(p_fate) x where x > 0); learning bool := false;
  alone bool := exists (select from novita.batch where id = p_batch and holder = p_me);
begin
  perform novita.durable_1();
  if settles then
    perform 1 from novita.budget where batch = p_batch for update;
    perform 1 from novita.account where label in (
      select account from novita.course where batch = p_batch and serial = any(p_serial)) order by label for update;
    perform 1 from novita."window" where id in (
      select "window" from novita.course where batch = p_batch and serial = any(p_serial)) order by id for update;
  end if;
  if p_window is not null then
    select quota is null into learning from novita."window" where id = p_window;
    if learning and (
      not exists (select from novita."window" where id = p_window and version = p_version)
      or (select count(*) from (
            select 1 from novita.course c join unnest(p_serial, p_moves, p_fate) u(serial, moves, fate)
              on c.serial = u.serial and c.moves = u.moves
            where c.batch = p_batch and c.serial = any(p_serial) and (u.fate = 0 or c."window" = p_window)
              and (p_me is null or c.owner = p_me or alone and c.owner is null) order by c.serial for update of c) x)
         < cardinality(p_serial)) then
      return;
    end if;
  end if;
  t := novita.now();
  for f in
    with u as (
      select * from unnest(p_serial, p_moves, p_todo, p_fate, p_spent, p_hold, p_gate, p_cause, {ARRAYS})
      as u(serial, moves, todo, fate, spent, hold, gate, cause, {NAMES})
    ), o as materialized (
      select c.serial, c.moves, c."window", c.cost, c.account, c.announced_time from novita.course c
      where c.batch = p_batch and c.serial = any(p_serial)       -- as they were at that number of moves: no lock is needed
    )
    update novita.course c set moves = c.moves + 1, {CHANGES},
      owner = case when u.todo then c.owner end, free = u.todo and c.owner is null,
      "window" = case when u.fate > 0 then null else c."window" end,
      slot = case when u.fate > 0 then null else c.slot end,
      paid = case when u.fate > 0 and u.spent and c.cost is not null then coalesce(c.paid, 0) + c.cost else c.paid end,
      cost = case when u.fate > 0 then null else c.cost end
    from u join o using (serial)
    where c.batch = p_batch and c.serial = any(p_serial) and c.serial = u.serial and c.moves = u.moves
      and o.moves = u.moves and (p_me is null or c.owner = p_me or alone and c.owner is null)
    returning c.serial, o."window" w, o.cost, u.fate, u.spent, u.hold, u.gate, u.cause, c.error, u.todo, c.single,
      o.account, o.announced_time,
      (select image_num from novita.request r where r.batch = p_batch and r.serial = c.serial) images
  loop
    if f.fate > 0 then
      perform novita.verdict_1(case when not learning then f.w end, f.images, f.fate, f.hold, f.cause, f.error, f.gate,
                              f.account, f.announced_time, t);
    end if;
    if f.cost is not null and f.fate > 0 then
      update novita.budget set reserved = reserved - f.cost, spent = spent + case when f.spent then f.cost else 0 end
        where batch = p_batch;
    end if;
    if f.single and not f.todo then perform pg_notify('novita_ended', p_batch || ':' || f.serial); end if;
    return next f.serial;
  end loop;
  if learning then
    update novita."window" set state = p_known, version = version + 1, held = p_taken where id = p_window;
  end if;
end $$;

-- Take rows for which something is to be done and that nobody has. p_after: what the caller has taken last, so that
-- the index need not be read over what is gone. p_last: up to which row; null: no end.
create function novita.lease_1(p_me bigint, p_batch int, p_most int, p_after bigint, p_last bigint)
returns setof bigint language plpgsql as $$
declare chosen bigint[];
begin
  perform 1 from novita.worker where id = p_me and ended is null for share;
  if not found then raise exception 'novita: this worker was taken for dead' using errcode = 'NV002'; end if;
  if not novita.steady_1() then return; end if;
  perform pg_advisory_xact_lock(5653043, p_batch);             -- one takes at a time: no row need be locked
  chosen := array(
    select serial from novita.course where batch = p_batch and free and serial > p_after
      and (p_last is null or serial <= p_last) and (aside is null or aside < p_me)
    order by serial limit p_most);
  return query
    update novita.course c set owner = p_me, free = false, moves = c.moves + 1
    where c.batch = p_batch and c.serial = any(chosen) and c.free returning c.serial;
end $$;

-- Whether nothing is left for a worker: no row that it could take, and none that another may give back.
create function novita.complete_1(p_me bigint, p_batch int) returns bool language sql as $$
  select novita.steady_1() and not exists (                    -- else some may have to be told again
    select from novita.course where batch = p_batch and free and (aside is null or aside < p_me)
  ) and not exists (
    select from novita.course where batch = p_batch and owner is not null and owner <> p_me)
$$;

-- Let go of rows that I have. p_todo: whether something is still to be done, by a later worker.
create function novita.put_back_1(p_me bigint, p_batch int, p_serial bigint[], p_todo bool[]) returns void
language sql as $$
  update novita.course c set owner = null, free = u.todo, aside = p_me, moves = c.moves + 1
  from unnest(p_serial, p_todo) u(serial, todo)
  where c.batch = p_batch and c.serial = u.serial and c.owner = p_me and c."window" is null and c.state <> 'announced'
$$;

-- Give back, at once, what a worker had and of which nothing is on its way: what was, `move_1` has settled before.
-- Forget what it has asked for in its plans.
create function novita.free_1(p_owner bigint) returns bigint language sql as $$
  with given as (
    update novita.course set owner = null, free = state in ('planned', 'submitted', 'succeeded'), moves = moves + 1
    where owner = p_owner and "window" is null and state <> 'announced' returning 1
  ), planned as (
    delete from novita.planning where worker = p_owner returning batch, session
  ), used as (
    delete from novita.usage where worker = p_owner
  ), forgotten as (
    delete from novita.asked a using planned p where (a.batch, a.session) = (p.batch, p.session))
  select count(*) from given
$$;

-- Take rows that have ended, to go on with them all the same. null: not now, after a failover.
create function novita.claim_1(p_me bigint, p_batch int, p_serial bigint[], p_state text[]) returns setof bigint
language plpgsql as $$
begin
  perform 1 from novita.worker where id = p_me and ended is null for share;
  if not found then raise exception 'novita: this worker was taken for dead' using errcode = 'NV002'; end if;
  if not novita.steady_1() then return next null; return; end if;
  return query
    update novita.course c set owner = p_me, free = false, moves = c.moves + 1
    from unnest(p_serial, p_state) u(serial, state)
    where c.batch = p_batch and c.serial = u.serial and c.state = u.state and c.owner is null returning c.serial;
end $$;

-- Plan again what was planned and taken before a failover, which has forgotten it.
create function novita.restore_1(p_batch int, p_key bytea[], p_occurrence int[], p_position int[], p_run int[], p_kind text[],
  p_endpoint text[], p_images int[], p_request bytea[], p_tag text[], p_metadata text[]) returns void language plpgsql as $$
declare latest bigint;
begin
  perform 1 from novita.batch where id = p_batch for update;
  select coalesce(max(serial), 0) into latest from novita.request where batch = p_batch;
  with gone as (
    select u.*, latest + row_number() over (order by u.n) serial
    from unnest(p_key, p_occurrence, p_position, p_run, p_kind, p_endpoint, p_images, p_request, p_tag, p_metadata)
      with ordinality u(key, occurrence, position, run, kind, endpoint, image_num, request, tag, metadata, n)
    where not exists (
      select from novita.request r where r.batch = p_batch and r.key = u.key and r.occurrence = u.occurrence)
  ), made as (
    insert into novita.request (batch, serial, key, occurrence, kind, endpoint, image_num, request, tag, metadata)
    select p_batch, serial, key, occurrence, kind, endpoint, image_num, request, tag, metadata from gone
  )
  insert into novita.course (batch, serial, run, position, state, attempts, bought, perhaps)
    select p_batch, serial, run, position, 'planned', 0, 0, 0 from gone;
end $$;

-- Say again what was confirmed to me, where a failover has forgotten it: other rows may have those serial numbers now.
create function novita.reassert_1(p_me bigint, p_batch int, p_key bytea[], p_occurrence int[], p_moves int[], p_todo bool[],
  p_window int[], p_cost numeric[], p_paid numeric[], p_slot text[], {PARAMETERS}) returns void language sql as $$
  update novita.course c set moves = u.moves, {CHANGES}, "window" = u.new_window, cost = u.new_cost, paid = u.new_paid,
    slot = u.new_slot, owner = case when u.todo and not alone then p_me end, free = u.todo and alone
  from unnest(p_key, p_occurrence, p_moves, p_todo, p_window, p_cost, p_paid, p_slot, {ARRAYS})
    u(key, occurrence, moves, todo, new_window, new_cost, new_paid, new_slot, {NAMES})
    join novita.request r on r.batch = p_batch and r.key = u.key and r.occurrence = u.occurrence,
    lateral (select exists (select from novita.batch where id = p_batch and holder = p_me) alone) b
  where c.batch = p_batch and c.serial = r.serial and c.moves < u.moves
$$;
"""  # noqa: S608 - constant
"""Text that makes them."""
