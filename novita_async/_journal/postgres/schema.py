"""The tables and functions of a shared journal: text, and nothing that waits.

**Two tables a purchase.** `request` says what is asked for and is written once; `course` says what has become
of it, is narrow, and is rewritten in place at each step: no index stands on its state.

**Every write is compare-and-set.** The writer names the number of moves that it has read, and must be the
owner of the row or the holder of the batch. Python lets facts happen (`machine.advance`); SQL compares, sets,
and does the sums of window and money in the same transaction.

**Locks** are taken in one order: batch, budget, window, rows. Each call is one function and one commit: no
lock outlives it. The database's clock is read after the locks, so that nobody judges by an old time.

**Its form.** `migrations` makes version n + 1 of version n. Tables only grow; functions carry the number of
their signature, so that processes of the release before go on while the next is rolled out.
"""

from typing import Final

MOVED: Final = (
    ("state", "text"), ("account", "text"), ("task_id", "text"), ("attempts", "int"),
    ("announced_time", "float8"), ("answered_time", "float8"), ("finished_time", "float8"),
    ("saved_time", "float8"), ("seed", "text"), ("error", "text"), ("paths", "text"), ("result", "text"),
    ("earlier", "text"), ("token", "text"), ("number", "int"), ("host", "text"), ("bought", "int"),
    ("perhaps", "int"), ("slot_time", "float8"),
)  # fmt: skip
"""Columns that facts change, with their types."""
PARAMETERS: Final = ", ".join(f"p_{name} {kind}[]" for name, kind in MOVED)
ARRAYS: Final = ", ".join(f"p_{name}" for name, _ in MOVED)
NAMES: Final = ", ".join(name for name, _ in MOVED)
CHANGES: Final = ", ".join(f"{name} = u.{name}" for name, _ in MOVED)
_COURSE: Final = ", ".join(
    f"{name} {kind}{' not null' if name in ('state', 'attempts', 'bought', 'perhaps') else ''}"
    for name, kind in MOVED
)

_TABLES: Final = f"""
create schema if not exists novita;

create table novita.meta (version int not null, oldest_reader int not null);
insert into novita.meta values (0, 1);

create table novita.batch (
  id      int generated always as identity primary key,
  name    text not null unique,
  run     int not null default 0,
  holder  bigint,                                        -- the worker that has the batch to itself
  created timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

create table novita.budget (                             -- one a batch
  batch    int primary key references novita.batch,
  "limit"  numeric not null,
  spent    numeric not null default 0,
  reserved numeric not null default 0
) with (fillfactor = 50);

create table novita.worker (                             -- a process at work: an incarnation, never used twice
  id          bigint generated always as identity primary key,
  batch       int not null references novita.batch,
  name        text not null,
  version     text not null,
  started     timestamptz not null default clock_timestamp(),
  alive_since timestamptz not null default clock_timestamp(),   -- without a gap
  alive_until timestamptz not null,
  ended       timestamptz,
  buried      bool not null default false                -- ended, and all that it had is given away
) with (fillfactor = 50);
create index worker_unburied on novita.worker (batch) where not buried;

create table novita.request (
  batch      int    not null references novita.batch,
  serial     bigint not null,
  key        bytea  not null,
  occurrence int    not null,
  kind       text   not null,
  endpoint   text   not null,
  image_num  int    not null,
  request    bytea  not null,
  tag        text,
  metadata   text,
  primary key (batch, serial),
  unique (batch, key, occurrence)
);

create table novita.course (
  batch    int    not null,
  serial   bigint not null,
  run      int    not null,
  position int    not null,
  moves    int    not null default 0,                    -- counts every change: the version of the fence
  owner    bigint,                                       -- the worker that has leased it
  free     bool   not null default true,                 -- something is to be done, and nobody has it
  "window" int,                                          -- where a place is taken that is not settled yet
  cost     numeric,                                      -- money that is reserved for it
  {_COURSE},
  primary key (batch, serial)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index course_free  on novita.course (batch, serial) where free;
create index course_owner on novita.course (owner) where owner is not null;
create index course_token on novita.course (batch, token) where token is not null;

create table novita."window" (                           -- one for each account and endpoint
  id         int generated always as identity primary key,
  account    text not null,
  endpoint   text not null,
  quota      int,                                        -- images in a window; null: not known
  held       int not null default 0,                     -- images that are announced and not let go
  gate_until float8 not null default 0,                  -- nothing is announced before
  unique (account, endpoint)
) with (fillfactor = 50);

create table novita.slot (                               -- when images are let go; a row for each 50 ms at most
  "window" int    not null,
  until    float8 not null,
  images   int    not null,
  primary key ("window", until)
) with (fillfactor = 70);

create unlogged table novita.waiting (                   -- heads of the workers' lines, the longest waiting first
  "window" int    not null,
  worker   bigint not null,
  since    float8 not null,
  images   int    not null,
  expires  float8 not null,
  primary key ("window", worker)
) with (fillfactor = 50);

create view novita.progress as
  select b.name batch, c.state, count(*) requests, sum(r.image_num) images, sum(c.bought) bought,
         sum(c.perhaps) perhaps, count(*) filter (where c.free) free
  from novita.course c join novita.request r using (batch, serial) join novita.batch b on b.id = c.batch
  group by 1, 2;
"""  # noqa: S608 - constant

_FUNCTIONS: Final = f"""
create function novita.now() returns float8 language sql volatile
  return extract(epoch from clock_timestamp())::float8;

create function novita.is_mine(p_owner bigint, p_me bigint, p_batch int) returns bool language sql stable
  return p_owner = p_me or p_owner is null
     and exists (select from novita.batch where id = p_batch and holder = p_me);

-- Begin to work on a batch: alone (its other workers must have ended), or with others. in_use: seconds until the
-- lease of the latest that is in the way runs out.
create function novita.begin_1(p_name text, p_worker text, p_version text, p_ttl float8, p_alone bool,
  out batch int, out me bigint, out run int, out in_use float8) language plpgsql as $$
declare t timestamptz;
begin
  insert into novita.batch (name) values (p_name) on conflict do nothing;
  select b.id, b.run into batch, run from novita.batch b where b.name = p_name for update;
  t := clock_timestamp();
  select extract(epoch from max(w.alive_until) - t) into in_use from novita.worker w join novita.batch b on b.id = w.batch
    where w.batch = begin_1.batch and w.ended is null and w.alive_until > t and (p_alone or b.holder = w.id);
  if in_use is not null then return; end if;
  if p_alone then
    update novita.worker w set ended = t where w.batch = begin_1.batch and w.ended is null;
  end if;
  insert into novita.worker (batch, name, version, alive_until)
    values (batch, p_worker, p_version, t + make_interval(secs => p_ttl)) returning id into me;
  if p_alone then run := run + 1; end if;
  update novita.batch b set holder = case when p_alone then me end, run = begin_1.run where b.id = begin_1.batch;
end $$;

-- Say that I live, and tell whom to bury. Only who has lived for a whole ttl without a gap calls others dead: after
-- an outage of the database or of the network everybody is late, and nobody is dead.
create function novita.beat_1(p_me bigint, p_ttl float8, out alive bool, out dead bigint[], out at float8)
language plpgsql as $$
declare t timestamptz := clock_timestamp(); since timestamptz; b int; long_enough timestamptz;
begin
  update novita.worker set alive_since = case when alive_until < t then t else alive_since end,
    alive_until = t + make_interval(secs => p_ttl)
    where id = p_me and ended is null returning alive_since, batch into since, b;
  alive := found;
  long_enough := t - make_interval(secs => p_ttl);
  if alive and since < long_enough and pg_postmaster_start_time() < long_enough then
    update novita.worker set ended = t where ctid = any(array(
      select ctid from novita.worker where batch = b and ended is null and alive_until < t and id <> p_me
      for update skip locked));
  end if;
  select array_agg(id) into dead from novita.worker where batch = b and ended is not null and not buried and id <> p_me;
  at := novita.now();
end $$;

create function novita.window_1(p_me bigint, p_account text, p_endpoint text, p_quota int, out id int, out quota int)
language plpgsql as $$
begin
  insert into novita."window" as w (account, endpoint, quota) values (p_account, p_endpoint, p_quota) on conflict do nothing;
  select w.id, w.quota into id, quota from novita."window" w
    where w.account = p_account and w.endpoint = p_endpoint for update;
  if quota is distinct from p_quota and p_quota is not null and (quota is null or not exists (
      select from novita.worker o where o.ended is null and o.alive_until > clock_timestamp() and o.id <> p_me)) then
    update novita."window" w set quota = p_quota where w.id = window_1.id;
    quota := p_quota;
  end if;
end $$;

create function novita.let_go(w int, t float8) returns int language sql as $$
  with gone as (delete from novita.slot where "window" = w and until <= t returning images)
  select coalesce(sum(images), 0)::int from gone
$$;

create function novita.hold(w int, t float8, n int) returns void language sql as $$
  insert into novita.slot values (w, ceil(t * 20) / 20, n)
  on conflict ("window", until) do update set images = novita.slot.images + excluded.images
$$;

-- Write what has become of rows that I own. Rows that are not mine any more, or have moved, are not in the answer.
-- p_me null: whoever owns them. p_todo: whether something is still to be done.
-- p_fate: 0 nothing, 1 the place is held for p_hold more seconds, 2 the place comes back.
create function novita.move_1(
  p_me bigint, p_batch int, p_serial bigint[], p_moves int[], p_todo bool[], p_fate int[], p_spent bool[],
  p_hold float8[], p_gate float8[], {PARAMETERS}
) returns setof bigint language plpgsql as $$
declare t float8; f record; settles bool := exists (select from unnest(p_fate) x where x > 0);
begin
  if settles then
    perform 1 from novita.budget where batch = p_batch for update;
    perform 1 from novita."window" where id in (
      select "window" from novita.course where batch = p_batch and serial = any(p_serial)) order by id for update;
  end if;
  t := novita.now();
  for f in
    with u as (
      select * from unnest(p_serial, p_moves, p_todo, p_fate, p_spent, p_hold, p_gate, {ARRAYS})
      as u(serial, moves, todo, fate, spent, hold, gate, {NAMES})
    ), o as materialized (
      select c.serial, c.moves, c."window", c.cost from novita.course c
      where c.batch = p_batch and c.serial = any(p_serial) order by c.serial for update
    )
    update novita.course c set moves = c.moves + 1, {CHANGES},
      owner = case when u.todo then c.owner end, free = u.todo and c.owner is null,
      "window" = case when u.fate > 0 then null else c."window" end,
      cost = case when u.fate > 0 then null else c.cost end
    from u join o using (serial)
    where c.batch = p_batch and c.serial = u.serial and c.moves = u.moves
      and (p_me is null or novita.is_mine(c.owner, p_me, p_batch))
    returning c.serial, o."window" w, o.cost, u.fate, u.spent, u.hold, u.gate,
      (select image_num from novita.request r where r.batch = p_batch and r.serial = c.serial) images
  loop
    if f.w is not null and f.fate = 1 then perform novita.hold(f.w, t + f.hold, f.images); end if;
    if f.w is not null and f.fate = 2 then
      update novita."window" set held = held - f.images, gate_until = greatest(gate_until, t + f.gate) where id = f.w;
    end if;
    if f.cost is not null and f.fate > 0 then
      update novita.budget set reserved = reserved - f.cost, spent = spent + case when f.spent then f.cost else 0 end
        where batch = p_batch;
    end if;
    return next f.serial;
  end loop;
end $$;

-- Take places and money and write the announcements: in the order that is given, as far as they fit.
-- Rows that are not mine any more, or have moved, are passed over.
create function novita.admit_1(
  p_me bigint, p_batch int, p_window int, p_serial bigint[], p_moves int[], p_images int[], p_cost numeric[],
  p_patience float8, {PARAMETERS},
  out granted bigint[], out refused bigint[], out delay float8, out why text
) language plpgsql as $$
declare
  win novita."window"; money novita.budget; t float8; used int; total numeric := 0; fits int[] := '{{}}'; k int;
  ahead int := 0; need int; since_me float8; limited bool; valid bigint[]; room float8;
begin
  granted := '{{}}'; delay := 0;
  perform 1 from novita.batch where id = p_batch for share;
  select * into money from novita.budget where batch = p_batch for update;
  limited := found;
  select * into win from novita."window" where id = p_window for update;
  t := novita.now();
  if not exists (select from novita.worker where id = p_me and ended is null) then
    refused := p_serial; why := 'buried'; return;
  end if;
  valid := array(
    select c.serial from novita.course c
      join unnest(p_serial, p_moves) u(serial, moves) on u.serial = c.serial and u.moves = c.moves
    where c.batch = p_batch and novita.is_mine(c.owner, p_me, p_batch) for update of c);
  refused := array(select s from unnest(p_serial) s where s <> all(valid));
  used := win.held - novita.let_go(p_window, t);
  if win.quota is not null then
    delete from novita.waiting where "window" = p_window and expires < t;
    select since into since_me from novita.waiting where "window" = p_window and worker = p_me;
    select coalesce(sum(images), 0) into ahead from novita.waiting
      where "window" = p_window and worker <> p_me and since < coalesce(since_me, 'infinity');
  end if;
  if t < win.gate_until then
    delay := win.gate_until - t; why := 'gate';
  elsif ahead > 0 then
    why := 'line';
  else
    for k in 1..cardinality(p_serial) loop
      continue when p_serial[k] <> all(valid);
      if win.quota is not null and used > 0 and used + p_images[k] > win.quota then why := 'window'; exit; end if;
      if limited and money.spent + total + coalesce(p_cost[k], 0) > money."limit" then why := 'spent'; exit; end if;
      if limited and money.spent + money.reserved + total + coalesce(p_cost[k], 0) > money."limit" then
        why := 'reserved'; delay := 0.25; exit;
      end if;
      fits := fits || k; used := used + p_images[k]; total := total + coalesce(p_cost[k], 0);
      granted := granted || p_serial[k];
    end loop;
  end if;
  if cardinality(fits) > 0 then
    with u as (
      select * from unnest(p_serial, p_cost, {ARRAYS}) with ordinality as u(serial, new_cost, {NAMES}, n)
      where n = any(fits)
    )
    update novita.course c set moves = c.moves + 1, "window" = p_window, cost = u.new_cost, {CHANGES}
    from u where c.batch = p_batch and c.serial = u.serial;
    if limited then update novita.budget set reserved = reserved + total where batch = p_batch; end if;
  end if;
  if used <> win.held then update novita."window" set held = used where id = p_window; end if;
  if why in ('window', 'line') then                              -- stand in line, and say when it may be my turn
    k := coalesce((select min(n) from unnest(p_serial) with ordinality x(s, n) where s = any(valid) and s <> all(granted)), 1);
    insert into novita.waiting values (p_window, p_me, t, p_images[k], t + p_patience)
      on conflict ("window", worker) do update set images = excluded.images, expires = excluded.expires,
        since = case when cardinality(fits) > 0 then excluded.since else novita.waiting.since end;
    need := used + ahead + p_images[k] - win.quota;
    select s.until - t into room from (
      select until, sum(images) over (order by until) total from novita.slot where "window" = p_window) s
      where s.total >= least(need, used) order by s.until limit 1;
    delay := least(greatest(coalesce(room, p_patience / 4), 0.01), p_patience / 2);
  elsif since_me is not null then
    delete from novita.waiting where "window" = p_window and worker = p_me;
  end if;
end $$;

-- Find requests by key and number, or make them. p_nth: number among equals of this call. A request that was never sent takes
-- endpoint and images anew.
create function novita.plan_1(p_me bigint, p_batch int, p_make bool, p_key bytea[], p_nth int[], p_position int[],
  p_kind text[], p_endpoint text[], p_images int[], p_request bytea[], p_tag text[], p_metadata text[])
returns table (n bigint, serial bigint) language plpgsql as $$
#variable_conflict use_column
declare r int; latest bigint;
begin
  select run into r from novita.batch where id = p_batch and holder = p_me for update;
  if not found then raise exception 'novita: the batch is not mine any more' using errcode = 'NV001'; end if;
  select coalesce(max(serial), 0) into latest from novita.request where batch = p_batch;
  return query
  with v as (
    select * from unnest(p_key, p_nth, p_position, p_kind, p_endpoint, p_images, p_request, p_tag, p_metadata)
      with ordinality v(key, nth, position, kind, endpoint, image_num, request, tag, metadata, n)
  ), claimed as (
    select q.key, count(*)::int c from novita.request q join novita.course using (batch, serial)
    where q.batch = p_batch and q.key = any(p_key) and run = r group by 1
  ), u as (
    select v.*, q.serial, v.nth + coalesce(c, 0) occurrence from v left join claimed using (key)
    left join novita.request q on q.batch = p_batch and q.key = v.key and q.occurrence = v.nth + coalesce(c, 0)
  ), new as (
    select u.*, latest + row_number() over (order by u.n) fresh from u where u.serial is null and p_make
  ), made as (
    insert into novita.request (batch, serial, key, occurrence, kind, endpoint, image_num, request, tag, metadata)
    select p_batch, fresh, key, occurrence, kind, endpoint, image_num, request, tag, metadata from new
  ), begun as (
    insert into novita.course (batch, serial, run, position, state, attempts, bought, perhaps)
    select p_batch, fresh, r, position, 'planned', 0, 0, 0 from new
  ), again as (
    update novita.request q set request = u.request, tag = u.tag, metadata = u.metadata,
      endpoint = case when c.announced_time is null and c.earlier is null then u.endpoint else q.endpoint end,
      image_num = case when c.announced_time is null and c.earlier is null then u.image_num else q.image_num end
    from u join novita.course c on c.batch = p_batch and c.serial = u.serial
    where q.batch = p_batch and q.serial = u.serial
      and (q.request, q.tag, q.metadata, q.endpoint, q.image_num)
          is distinct from (u.request, u.tag, u.metadata, u.endpoint, u.image_num)
  ), asked as (
    update novita.course c set run = r, position = u.position, moves = c.moves + 1
    from u where c.batch = p_batch and c.serial = u.serial
  )
  select u.n, coalesce(u.serial, new.fresh) from u left join new using (n) order by u.n;
end $$;

-- Take rows for which something is to be done and that nobody has. p_after: what the caller has taken last, so that
-- the index need not be read over what is gone.
create function novita.lease_1(p_me bigint, p_batch int, p_most int, p_after bigint) returns setof bigint
language plpgsql as $$
begin
  perform 1 from novita.worker where id = p_me and ended is null for share;
  if not found then raise exception 'novita: this worker was taken for dead' using errcode = 'NV002'; end if;
  return query
    with f as materialized (                                     -- else a plan may ask once a row, and take more
      select serial from novita.course where batch = p_batch and free and serial > p_after
      order by serial limit p_most for update skip locked)
    update novita.course c set owner = p_me, free = false, moves = c.moves + 1 from f
    where c.batch = p_batch and c.serial = f.serial returning c.serial;
end $$;

-- Give back, at once, what a worker had and of which nothing is on its way. The rest is for `move_1`.
create function novita.free_1(p_owner bigint) returns bigint language sql as $$
  with given as (
    update novita.course set owner = null, free = true, moves = moves + 1
    where owner = p_owner and "window" is null and state <> 'announced' and perhaps = 0 returning 1)
  select count(*) from given
$$;
"""  # noqa: S608 - constant

FIRST: Final = _TABLES + _FUNCTIONS
"""Text that makes the first version."""
