"""Functions of processes at work: how they begin, and say that they live."""

from typing import Final

WORKERS: Final = """
create function novita.now() returns float8 language sql volatile
  return extract(epoch from clock_timestamp())::float8;

create function novita.is_mine(p_owner bigint, p_me bigint, p_batch int) returns bool language sql stable
  return p_owner = p_me or p_owner is null
     and exists (select from novita.batch where id = p_batch and holder = p_me);

-- Let what is committed now outlive a crash, also where the database's own setting would let it be forgotten.
create function novita.durable_1() returns void language plpgsql as $$
begin
  if current_setting('synchronous_commit') in ('off', 'local') then
    perform set_config('synchronous_commit', 'on', true);
  end if;
end $$;

-- After a failover, give no number that may have been given before it and was forgotten.
create function novita.skip_numbers_1() returns void language sql security definer set search_path = pg_catalog as $$
  select setval(s, nextval(s) + 10000) from unnest(array[pg_get_serial_sequence('novita.worker', 'id'),
    pg_get_serial_sequence('novita.batch', 'id'), pg_get_serial_sequence('novita."window"', 'id')]::regclass[]) s
$$;

-- Whether the database is the one that it was, or has been another for so long that all who live have said again what
-- they know: whoever has not done so within its lease is dead to all others.
create function novita.steady_1() returns bool language plpgsql as $$
declare m novita.meta; line text := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
begin
  select * into m from novita.meta;
  if m.timeline is distinct from line then
    select * into m from novita.meta for update;
    if m.timeline is null then
      update novita.meta set timeline = line;
    elsif m.timeline <> line then
      update novita.meta set timeline = line, quiet_until = clock_timestamp()
        + greatest('5 s', (select max(lease) from novita.worker where ended is null
                           and alive_until > clock_timestamp() - interval '1 day'));
      perform novita.skip_numbers_1();
      return false;
    end if;
    select * into m from novita.meta;
  end if;
  return m.quiet_until < clock_timestamp();
end $$;

-- Be again the worker that I was before a failover, which has forgotten that I began, and perhaps the batch. Tells the
-- batch; null: another has it to itself, or I was buried.
create function novita.be_again_1(p_me bigint, p_name text, p_run int, p_worker text, p_version text, p_ttl float8,
  p_alone bool) returns int language plpgsql as $$
declare b novita.batch;
begin
  insert into novita.batch (name) values (p_name) on conflict do nothing;
  select * into b from novita.batch where name = p_name for update;
  if b.holder is not null and not (p_alone and b.holder = p_me) then return null; end if;
  insert into novita.worker (id, batch, name, version, alive_until, lease, alone) overriding system value
    values (p_me, b.id, p_worker, p_version, clock_timestamp() + make_interval(secs => p_ttl), make_interval(secs => p_ttl), p_alone)
    on conflict do nothing;
  if not found then return null; end if;
  if p_alone then update novita.batch set holder = p_me, run = greatest(run, p_run) where id = b.id; end if;
  return b.id;
end $$;

-- Begin to work on a batch: alone (its other workers must have ended), or with others. in_use: seconds until the
-- lease of the latest that is in the way runs out.
create function novita.begin_1(p_name text, p_worker text, p_version text, p_ttl float8, p_alone bool,
  out batch int, out me bigint, out run int, out in_use float8) language plpgsql as $$
declare t timestamptz;
begin
  perform novita.steady_1();
  insert into novita.batch (name) values (p_name) on conflict do nothing;
  select b.id, b.run into batch, run from novita.batch b where b.name = p_name for update;
  t := clock_timestamp();
  select extract(epoch from max(w.alive_until) - t) into in_use from novita.worker w join novita.batch b on b.id = w.batch
    where w.batch = begin_1.batch and w.ended is null and w.alive_until > t and (p_alone or b.holder = w.id);
  if in_use is not null then return; end if;
  if p_alone then
    update novita.worker w set ended = t where w.batch = begin_1.batch and w.ended is null;
  end if;
  insert into novita.worker (batch, name, version, alive_until, lease, alone)
    values (batch, p_worker, p_version, t + make_interval(secs => p_ttl), make_interval(secs => p_ttl), p_alone)
    returning id into me;
  if p_alone then run := run + 1; end if;
  update novita.batch b set holder = case when p_alone then me end, run = begin_1.run where b.id = begin_1.batch;
end $$;

-- How long the lease of another has to be over before I call it dead.
create function novita.respite_1(p_lease interval, p_ttl float8) returns interval language sql immutable as $$
  select case when p_lease < make_interval(secs => p_ttl) then make_interval(secs => p_ttl) else interval '0' end
$$;

-- Say that I live, and tell whom to bury, of whichever batch, how many are at work, which accounts are not well,
-- and which quotas were said for all.
-- due: seconds until another may be called dead. Only who has lived for a whole lease, mine and the other's, without a
-- gap does that: after an outage of the database or of the network everybody is late, and nobody is dead. An outage
-- shorter than my lease is no gap for me: so a lease that is shorter runs out for me when mine would have done besides.
create function novita.beat_1(p_me bigint, p_ttl float8,
  out alive bool, out dead bigint[], out at float8, out workers int, out accounts text, out steady bool, out due float8,
  out oldest int, out quotas text)
language plpgsql as $$
declare t timestamptz; since timestamptz; lived interval; marked bigint[] := '{}';
begin
  steady := novita.steady_1();
  if not steady then                                     -- nobody is dead while all come back
    update novita.worker set alive_since = clock_timestamp(), alive_until = clock_timestamp() + make_interval(secs => p_ttl),
      ended = case when buried then ended end where id = p_me;
  end if;
  t := clock_timestamp();
  update novita.worker set alive_since = case when alive_until < t then t else alive_since end,
    alive_until = t + make_interval(secs => p_ttl), lease = make_interval(secs => p_ttl)
    where id = p_me and ended is null returning alive_since into since;
  alive := found;
  lived := t - greatest(since, pg_postmaster_start_time());
  if alive and lived > make_interval(secs => p_ttl) then
    with late as (
      select id from novita.worker where not buried and ended is null and alive_until < t - novita.respite_1(lease, p_ttl)
        and lease < lived and id <> p_me
      for update skip locked
    ), called as (
      update novita.worker w set ended = t from late where w.id = late.id returning w.id
    ) select coalesce(array_agg(id), '{}') into marked from called;
  end if;
  dead := marked || array(                               -- and those whose burial was begun by one that is dead by now
    select id from novita.worker where not buried and ended < t - make_interval(secs => p_ttl) and id <> p_me);
  at := novita.now();
  select count(*) filter (where alive_until > t), extract(epoch from min(alive_until + novita.respite_1(lease, p_ttl)) filter (where id <> p_me) - t)
    into workers, due from novita.worker where not buried and ended is null;
  accounts := novita.health_1(); quotas := novita.quotas_1();
  select oldest_reader into oldest from novita.meta;
end $$;

-- Let what a dead worker that had its batch to itself has left on its way be its own, unless another has the batch by
-- now. Tells the batch.
create function novita.inherit_1(p_dead bigint) returns int language plpgsql as $$
declare w novita.worker;
begin
  select * into w from novita.worker where id = p_dead;
  if w.alone then
    perform 1 from novita.batch where id = w.batch and (holder is null or holder = p_dead) for update;
    if found then
      update novita.course set owner = p_dead, free = false, moves = moves + 1
        where batch = w.batch and owner is null and ("window" is not null or state = 'announced');
    end if;
  end if;
  return w.batch;
end $$;

create view novita.at_work as                            -- who works, since when, and what each has
  select b.name batch, w.id, w.name, w.version, w.started, w.alive_until > clock_timestamp() is_alive, w.alive_until,
    count(c.serial) had, count(*) filter (where c.state = 'announced') sending,
    count(*) filter (where c.state = 'submitted') watching
  from novita.worker w join novita.batch b on b.id = w.batch left join novita.course c on c.owner = w.id
  where w.ended is null or not w.buried
  group by b.name, w.id;
"""
"""Text that makes them."""
