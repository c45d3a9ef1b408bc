"""Things that processes share beside rows: learned windows, health of accounts, money, places without rows.

**An unknown quota** is learned by all together. What the pacer knows of a window stands in the row of the
window; a process lets it decide, and hands its new state over with the rows that it decided about. The state
is compared and set by its version, in the same commit as the rows. No lock is held while a process thinks.

**Health.** An account that is refused, not answered or not reached is closed to all, for a pause that doubles,
and then takes one probe of one process. What was announced before the last trip tells nothing new.

**Places without rows** are those of clients that keep no journal: what a process has on its way is counted
under its number, and held for a whole window where that process dies.

**A failover** may forget what was confirmed last. For a while after one nobody buys, and each process says
again what it was told.
"""

from typing import Final

from novita_async._journal.postgres.schema import ARRAYS, CHANGES, NAMES, PARAMETERS

SHARED: Final = f"""
alter table novita.meta add column timeline text, add column quiet_until timestamptz not null default '-infinity';
alter table novita.budget add column price numeric;      -- of an image, for processes that were told none
alter table novita.course add column slot text,          -- what the pacer said of a place that is not settled
                          add column paid numeric,       -- money; null: not told
                          add column single bool;        -- of no run: somebody waits for it alone
alter table novita."window" add column version bigint not null default 0,
                            add column state text;       -- of the pacer, while the quota is not known

create table novita.account (
  label       text primary key,
  cause       text,                                      -- why it is closed; null: it is not
  error       text,                                      -- why it was taken out; null: it was not
  trips       int    not null default 0,                 -- in a row
  opened_at   float8 not null default 0,
  tripped_at  float8 not null default 0,
  gate_until  float8 not null default 0,
  out_until   float8 not null default 0,
  probe_until float8 not null default 0                  -- until then another's probe is awaited
) with (fillfactor = 50);

create table novita.place (                              -- on their way, without a row
  worker   bigint not null,
  "window" int    not null,
  images   int    not null,
  call     bigint not null default 0,                    -- the latest that was carried out: told again it counts once
  granted  int[],                                        -- what that one has granted
  primary key (worker, "window")
) with (fillfactor = 50);

create table novita.memory (name text primary key, version bigint not null, state text not null);

create function novita.steady_1(p_quiet float8) returns bool language plpgsql as $$
declare m novita.meta; line text := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
begin
  select * into m from novita.meta;
  if m.timeline is distinct from line then
    update novita.meta set timeline = line, quiet_until = case when m.timeline is null then '-infinity'
      else clock_timestamp() + make_interval(secs => p_quiet) end where timeline is distinct from line;
    return m.timeline is null;
  end if;
  return m.quiet_until < clock_timestamp();
end $$;

create function novita.window_2(p_me bigint, p_account text, p_endpoint text, p_quota int,
  out id int, out quota int, out version bigint, out state text)
language plpgsql as $$
declare w novita."window"; t float8;
begin
  insert into novita."window" (account, endpoint, quota) values (p_account, p_endpoint, p_quota) on conflict do nothing;
  select * into w from novita."window" x where x.account = p_account and x.endpoint = p_endpoint for update;
  if w.quota is distinct from p_quota and p_quota is not null and (w.quota is null or not exists (
      select from novita.worker o where o.ended is null and o.alive_until > clock_timestamp() and o.id <> p_me)) then
    if w.quota is null then                              -- what is let go later counts from now
      t := novita.now();
      delete from novita.slot where "window" = w.id;
      insert into novita.slot select w.id, ceil((t + 61.01) * 20) / 20, w.held - coalesce(sum(r.image_num), 0)
        from novita.course c join novita.request r using (batch, serial) where c."window" = w.id
        having w.held > coalesce(sum(r.image_num), 0);
    end if;
    update novita."window" x set quota = p_quota, state = null where x.id = w.id;
    w.quota := p_quota;
  end if;
  id := w.id; quota := w.quota; version := w.version; state := w.state;
end $$;

-- Close an account to all. p_gate: seconds that the service asked for; 0: it did not say.
create function novita.trip_1(p_account text, p_cause text, p_error text, p_gate float8, p_announced float8, t float8)
returns void language plpgsql as $$
declare a novita.account; pause float8;
begin
  insert into novita.account (label) values (p_account) on conflict do nothing;
  select * into a from novita.account where label = p_account for update;
  if p_cause = 'out' then
    update novita.account set error = p_error, out_until = t + 60, probe_until = 0 where label = p_account;
  elsif p_announced <= a.tripped_at then
    if a.cause is not null then
      update novita.account set gate_until = greatest(gate_until, t + p_gate) where label = p_account;
    end if;
  else
    pause := (0.75 + 0.25 * random()) * least(0.5 * 2 ^ least(a.trips, 16),
      case p_cause when 'rate limited' then 8
        else least(greatest(9, case when a.cause is null then 0 else (t - a.opened_at) / 6 end),
                   case p_cause when 'uncertain' then 300 else 60 end) end);
    update novita.account set cause = p_cause, trips = a.trips + 1, tripped_at = t, probe_until = 0,
      opened_at = case when a.cause is null then t else a.opened_at end, gate_until = t + greatest(pause, p_gate)
      where label = p_account;
  end if;
end $$;

-- An account was served: it is open to all.
create function novita.served_1(p_account text, p_announced float8) returns void language sql as $$
  update novita.account set trips = 0, probe_until = 0,
    cause = case when p_announced > tripped_at then null else cause end,
    gate_until = case when p_announced > tripped_at then 0 else gate_until end,
    error = case when p_announced >= out_until then null else error end
  where label = p_account and (cause is not null or error is not null)
$$;

-- Whether an account may be used now. most: how many requests; 0: none, for `delay` seconds.
create function novita.open_1(p_account text, t float8, out most int, out delay float8, out why text) language plpgsql as $$
declare a novita.account;
begin
  most := 2147483647; delay := 0;
  select * into a from novita.account where label = p_account and (cause is not null or error is not null) for update;
  if not found then return; end if;
  most := 0;
  if a.error is not null and t < a.out_until then
    why := 'out'; delay := a.out_until - t;
  elsif t < a.gate_until then
    why := 'gate'; delay := a.gate_until - t;
  elsif t < a.probe_until then
    why := 'probe'; delay := least(a.probe_until - t, 1);
  else
    most := 1;
    update novita.account set probe_until = t + case cause when 'uncertain' then 60 else 10 end where label = p_account;
  end if;
end $$;

create function novita.withdrawn_1(p_account text, t float8) returns void language sql as $$
  update novita.account set probe_until = 0 where label = p_account and probe_until > t
$$;

-- Take places and money and write the announcements: in the order that is given, as far as they fit. p_batch null:
-- places without rows. `granted` and `refused` are numbers of what was given, from 1.
-- p_known: where the quota is not known, what the pacer knows once all that is offered is announced.
create function novita.admit_2(
  p_me bigint, p_batch int, p_window int, p_serial bigint[], p_moves int[], p_images int[], p_cost numeric[],
  p_patience float8, p_slot text[], p_version bigint, p_known text, p_taken int, p_call bigint, {PARAMETERS},
  out granted int[], out refused int[], out delay float8, out why text, out latest bigint, out known text
) language plpgsql as $$
declare
  win novita."window"; money novita.budget; t float8; used int; total numeric := 0; k int := 0;
  ahead int := 0; need int; since_me float8; limited bool := false; valid int[]; room float8; acc record;
  offered int := cardinality(p_images); price numeric; mine novita.place; learning bool;
begin
  granted := '{{}}'; refused := '{{}}'; delay := 0;
  if not novita.steady_1(5) then why := 'quiet'; delay := 0.3; return; end if;
  if p_batch is not null then
    perform 1 from novita.batch where id = p_batch for share;
    select * into money from novita.budget where batch = p_batch for update;
    limited := found;
  end if;
  select * into acc from novita.open_1((select account from novita."window" where id = p_window), novita.now());
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
        join novita.course c on c.batch = p_batch and c.serial = u.serial and c.moves = u.moves
      where novita.is_mine(c.owner, p_me, p_batch) order by c.serial for update of c);
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
  elsif ahead > 0 then
    why := 'line';
  else
    for k in 1..offered loop
      continue when k <> all(valid);
      price := coalesce(p_cost[k], money.price * p_images[k], 0);
      if not learning and used > 0 and used + p_images[k] > win.quota then why := 'window'; exit; end if;
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
      from u where c.batch = p_batch and c.serial = u.serial;
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
  if why in ('window', 'line') then                              -- stand in line, and say when it may be my turn
    k := coalesce((select min(x) from unnest(valid) x where x <> all(granted)), 1);
    insert into novita.waiting values (p_window, p_me, t, p_images[k], t + p_patience)
      on conflict ("window", worker) do update set images = excluded.images, expires = excluded.expires,
        since = case when cardinality(granted) > 0 then excluded.since else novita.waiting.since end;
    need := used + ahead + p_images[k] - win.quota;
    select s.until - t into room from (
      select until, sum(images) over (order by until) total from novita.slot where "window" = p_window) s
      where s.total >= least(need, used) order by s.until limit 1;
    delay := least(greatest(coalesce(room, p_patience / 4), 0.01), p_patience / 2);
  elsif since_me is not null then
    delete from novita.waiting where "window" = p_window and worker = p_me;
  end if;
end $$;

-- What a verdict means for a place and for its account. p_fate: 1 the place is held for p_hold more seconds, 2 it comes
-- back. p_cause: why the account is closed to all; null: it was served, or was not asked; 'nothing': nothing is known.
create function novita.settle_1(p_window int, p_images int, p_fate int, p_hold float8, p_cause text, p_error text,
  p_gate float8, p_account text, p_announced float8, t float8) returns void language plpgsql as $$
begin
  if p_window is not null and p_fate = 1 then perform novita.hold(p_window, t + p_hold, p_images); end if;
  if p_window is not null and p_fate = 2 then
    update novita."window" set held = held - p_images where id = p_window and quota is not null;
  end if;
  if p_cause = 'nothing' then
    null;
  elsif p_cause is not null then
    perform novita.trip_1(p_account, p_cause, p_error, p_gate, p_announced, t);
  elsif p_fate = 1 then
    perform novita.served_1(p_account, p_announced);
  elsif p_fate = 2 then
    perform novita.withdrawn_1(p_account, t);
  end if;
end $$;

-- Write what has become of rows that I own. Rows that are not mine any more, or have moved, are not in the answer.
-- p_me null: whoever owns them. p_todo: whether something is still to be done.
-- p_window, p_version, p_known: the rows are those of a window whose quota is not known; all are written, or none.
create function novita.move_2(
  p_me bigint, p_batch int, p_serial bigint[], p_moves int[], p_todo bool[], p_fate int[], p_spent bool[],
  p_hold float8[], p_gate float8[], p_cause text[], p_window int, p_version bigint, p_known text, p_taken int,
  {PARAMETERS}
) returns setof bigint language plpgsql as $$
declare t float8; f record; settles bool := exists (select from unnest(p_fate) x where x > 0); learning bool := false;
begin
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
            select 1 from novita.course c join unnest(p_serial, p_moves) u(serial, moves)
              on c.batch = p_batch and c.serial = u.serial and c.moves = u.moves and c."window" = p_window
            where p_me is null or novita.is_mine(c.owner, p_me, p_batch) order by c.serial for update of c) x)
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
      where c.batch = p_batch and c.serial = any(p_serial) order by c.serial for update
    )
    update novita.course c set moves = c.moves + 1, {CHANGES},
      owner = case when u.todo then c.owner end, free = u.todo and c.owner is null,
      "window" = case when u.fate > 0 then null else c."window" end,
      slot = case when u.fate > 0 then null else c.slot end,
      paid = case when u.fate > 0 and u.spent and c.cost is not null then coalesce(c.paid, 0) + c.cost else c.paid end,
      cost = case when u.fate > 0 then null else c.cost end
    from u join o using (serial)
    where c.batch = p_batch and c.serial = u.serial and c.moves = u.moves
      and (p_me is null or novita.is_mine(c.owner, p_me, p_batch))
    returning c.serial, o."window" w, o.cost, u.fate, u.spent, u.hold, u.gate, u.cause, c.error, u.todo, c.single,
      o.account, o.announced_time,
      (select image_num from novita.request r where r.batch = p_batch and r.serial = c.serial) images
  loop
    if f.fate > 0 then
      perform novita.settle_1(case when not learning then f.w end, f.images, f.fate, f.hold, f.cause, f.error, f.gate,
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

-- The same for places without rows. p_call null: of a process that has ended. False: another was first to change what is known of the window.
create function novita.settle_2(p_me bigint, p_window int, p_images int[], p_fate int[], p_hold float8[], p_gate float8[],
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
    perform novita.settle_1(case when win.quota is not null then p_window end, p_images[k], p_fate[k], p_hold[k],
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
create function novita.places_1(p_dead bigint) returns table ("window" int, images int, account text, endpoint text)
language sql as $$
  select p."window", p.images, w.account, w.endpoint from novita.place p join novita."window" w on w.id = p."window"
  where p.worker = p_dead and p.images > 0
$$;

-- Say that I live, and tell whom to bury, how many are at work, and which accounts are not well.
create function novita.beat_2(p_me bigint, p_ttl float8,
  out alive bool, out dead bigint[], out at float8, out workers int, out accounts text, out steady bool)
language plpgsql as $$
declare b record;
begin
  steady := novita.steady_1(10);
  if not steady then                                     -- nobody is dead while all come back
    update novita.worker set alive_since = clock_timestamp(), alive_until = clock_timestamp() + make_interval(secs => p_ttl),
      ended = case when buried then ended end where id = p_me;
  end if;
  select * into b from novita.beat_1(p_me, p_ttl);
  alive := b.alive; dead := b.dead; at := b.at;
  select count(*) into workers from novita.worker where ended is null and alive_until > clock_timestamp();
  accounts := novita.health_1();
end $$;

create function novita.health_1() returns text language sql volatile as $$
  select json_agg(json_build_object('label', label, 'cause', cause, 'error', error,
      'gate', gate_until - novita.now(), 'out', out_until - novita.now()))::text
    from novita.account where cause is not null or error is not null
$$;

-- Say again what was confirmed to me, where a failover has forgotten it. Tells what was forgotten.
create function novita.reassert_1(p_me bigint, p_batch int, p_serial bigint[], p_moves int[], p_todo bool[],
  p_window int[], p_cost numeric[], p_paid numeric[], p_slot text[], {PARAMETERS}) returns setof bigint language sql as $$
  update novita.course c set moves = u.moves, {CHANGES}, owner = case when u.todo then coalesce(c.owner, p_me) end,
    free = false, "window" = u.new_window, cost = u.new_cost, paid = u.new_paid, slot = u.new_slot
  from unnest(p_serial, p_moves, p_todo, p_window, p_cost, p_paid, p_slot, {ARRAYS})
    u(serial, moves, todo, new_window, new_cost, new_paid, new_slot, {NAMES})
  where c.batch = p_batch and c.serial = u.serial and c.moves < u.moves returning c.serial
$$;

-- Count windows and money anew from the rows, after a failover.
create function novita.rebuild_1(p_hold float8) returns void language plpgsql as $$
declare w novita."window"; t float8; b int;
begin
  for b in select batch from novita.budget order by batch for update loop perform novita.recount_1(b); end loop;
  for w in select * from novita."window" where quota is not null order by id for update loop
    t := novita.now();
    delete from novita.slot where "window" = w.id;
    insert into novita.slot
      select w.id, ceil((c.slot_time + p_hold) * 20) / 20, sum(r.image_num)
      from novita.course c join novita.request r using (batch, serial)
      where c."window" is null and c.account = w.account and r.endpoint = w.endpoint and c.slot_time > t - p_hold
      group by 1, 2;
    update novita."window" set held = (select coalesce(sum(images), 0) from novita.slot where "window" = w.id)
      + (select coalesce(sum(r.image_num), 0) from novita.course c join novita.request r using (batch, serial)
         where c."window" = w.id)
      + (select coalesce(sum(images), 0) from novita.place where "window" = w.id) where id = w.id;
  end loop;
end $$;

-- Put one request into a batch, whoever works on it. False: another stands there under this key.
create function novita.put_1(p_batch text, p_key bytea, p_kind text, p_endpoint text, p_images int, p_request bytea,
  p_tag text, p_metadata text) returns bool language plpgsql as $$
declare b novita.batch; there bytea; s bigint;
begin
  insert into novita.batch (name) values (p_batch) on conflict do nothing;
  select * into b from novita.batch where name = p_batch for update;
  select request into there from novita.request where batch = b.id and key = p_key and occurrence = 0;
  if found then return there = p_request; end if;
  select coalesce(max(serial), 0) + 1 into s from novita.request where batch = b.id;
  insert into novita.request (batch, serial, key, occurrence, kind, endpoint, image_num, request, tag, metadata)
    values (b.id, s, p_key, 0, p_kind, p_endpoint, p_images, p_request, p_tag, p_metadata);
  insert into novita.course (batch, serial, run, position, state, attempts, bought, perhaps, single)
    values (b.id, s, b.run, s - 1, 'planned', 0, 0, 0, true);
  perform pg_notify('novita_free', b.id::text);
  return true;
end $$;

-- Give a batch its budget; count anew what rows have cost. p_price: of an image that was bought before there was one.
-- Not mine to say while others at work were told another: then what they were told comes back.
create function novita.budget_1(p_me bigint, p_batch int, p_limit numeric, p_price numeric) returns numeric
language plpgsql as $$
declare money novita.budget;
begin
  insert into novita.budget (batch, "limit", price) values (p_batch, p_limit, p_price) on conflict do nothing;
  select * into money from novita.budget where batch = p_batch for update;
  if money."limit" <> p_limit and exists (select from novita.worker where batch = p_batch and id <> p_me
      and ended is null and alive_until > clock_timestamp()) then
    return money."limit";
  end if;
  update novita.budget set "limit" = p_limit, price = coalesce(p_price, price) where batch = p_batch;
  perform novita.recount_1(p_batch);
  return p_limit;
end $$;

create function novita.recount_1(p_batch int) returns void language sql as $$
  update novita.budget b set
    spent = (select coalesce(sum(coalesce(c.paid, case when c.cost is null then b.price * (c.bought + c.perhaps) end)), 0)
             from novita.course c where c.batch = p_batch),
    reserved = (select coalesce(sum(c.cost), 0) from novita.course c where c.batch = p_batch)
  where b.batch = p_batch
$$;
"""  # noqa: S608 - constant
"""Text that makes the tables and functions."""
