"""The part of the schema that says who works on what: plans by several at once, rows taken, put back, claimed.

A row that a worker could not bring to its end (its pictures are not on that host, its files cannot be had, the
wait was given up) is *set aside*: that worker does not take it again, a later one does, once. So a batch that
nobody can end is complete for those who tried, and no two workers hand such a row to each other for ever.

**Planning.** Whoever plans while others work has a *session*, in which equal orders are counted; so several may
plan the same input at once, and no row is made twice. A new row's place is the one in the batch, so that no two
rows have one name. Each piece of a plan has a number: where a connection breaks after the commit, the same piece
asked for again finds the rows that it has made. The counts are not logged: where the database has crashed, their
session is gone, and the input must be planned anew, which finds what is there.
"""

from typing import Final

WORK: Final = """
alter table novita.course add column aside bigint;       -- the latest worker that could not bring it to an end
alter table novita.batch
  add column note text,                                  -- JSON: where results go, what they are called, prices
  add column piece int not null default 0,               -- the latest piece of a plan that was made ...
  add column piece_run int not null default 0;           -- ... by the run that had the batch to itself

create unlogged table novita.planning (                  -- those who plan while others work
  session int not null,
  batch   int not null,
  piece   int not null,
  primary key (batch, session)
);
create unlogged table novita.asked (                     -- how often a session has asked for the same
  batch   int   not null,
  session int   not null,
  key     bytea not null,
  n       int   not null,
  primary key (batch, session, key)
) with (fillfactor = 70);

-- Begin to plan while others work.
create function novita.session_1(p_batch int) returns int language plpgsql as $$
declare s int;
begin
  update novita.batch set run = run + 1 where id = p_batch returning run into s;
  insert into novita.planning values (s, p_batch, 0);
  return s;
end $$;

create function novita.end_session_1(p_batch int, p_session int) returns void language sql as $$
  delete from novita.asked where batch = p_batch and session = p_session;
  delete from novita.planning where batch = p_batch and session = p_session
$$;

-- Find requests by key and number, or make them. p_nth: number among equals of this piece. p_session null: the batch
-- is the caller's alone. A request that was never sent takes endpoint and images anew.
create function novita.plan_2(p_me bigint, p_batch int, p_session int, p_piece int, p_make bool, p_key bytea[],
  p_nth int[], p_position int[], p_kind text[], p_endpoint text[], p_images int[], p_request bytea[], p_tag text[],
  p_metadata text[])
returns table (n bigint, serial bigint, is_new bool) language plpgsql as $$
#variable_conflict use_column
declare r int; latest bigint; done bool;
begin
  if p_session is null then
    select run, piece_run = run and piece >= p_piece into r, done from novita.batch
      where id = p_batch and holder = p_me for update;
    if not found then raise exception 'novita: the batch is not mine any more' using errcode = 'NV001'; end if;
    update novita.batch set piece = p_piece, piece_run = r where id = p_batch;
  else
    perform 1 from novita.batch where id = p_batch for update;
    select piece >= p_piece into done from novita.planning where batch = p_batch and session = p_session;
    if not found then raise exception 'novita: the plan is gone' using errcode = 'NV003'; end if;
    update novita.planning set piece = p_piece where batch = p_batch and session = p_session;
    r := p_session;
  end if;
  select coalesce(max(serial), 0) into latest from novita.request where batch = p_batch;
  return query
  with v as (
    select * from unnest(p_key, p_nth, p_position, p_kind, p_endpoint, p_images, p_request, p_tag, p_metadata)
      with ordinality v(key, nth, position, kind, endpoint, image_num, request, tag, metadata, n)
  ), mine as (
    select key, count(*)::int c from v group by key
  ), claimed as (
    select q.key, count(*)::int c from novita.request q join novita.course using (batch, serial)
    where p_session is null and q.batch = p_batch and q.key = any(p_key) and run = r group by 1
    union all
    select key, n from novita.asked where batch = p_batch and session = p_session and key = any(p_key)
  ), before as (
    select key, claimed.c - case when done then mine.c else 0 end c from claimed join mine using (key)
  ), u as (
    select v.*, q.serial, v.nth + coalesce(c, 0) occurrence from v left join before using (key)
    left join novita.request q on q.batch = p_batch and q.key = v.key and q.occurrence = v.nth + coalesce(c, 0)
  ), new as (
    select u.*, latest + row_number() over (order by u.n) fresh from u where u.serial is null and p_make
  ), made as (
    insert into novita.request (batch, serial, key, occurrence, kind, endpoint, image_num, request, tag, metadata)
    select p_batch, fresh, key, occurrence, kind, endpoint, image_num, request, tag, metadata from new
  ), begun as (
    insert into novita.course (batch, serial, run, position, state, attempts, bought, perhaps)
    select p_batch, fresh, r, case when p_session is null then position else fresh - 1 end, 'planned', 0, 0, 0 from new
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
    from u where p_session is null and c.batch = p_batch and c.serial = u.serial
  ), counted as (
    insert into novita.asked as a (batch, session, key, n) select p_batch, p_session, key, c from mine
    where p_session is not null and not done
    on conflict (batch, session, key) do update set n = a.n + excluded.n
  )
  select u.n, coalesce(u.serial, new.fresh), u.serial is null from u left join new using (n) order by u.n;
end $$;

-- Take rows for which something is to be done and that nobody has. p_after: what the caller has taken last, so that
-- the index need not be read over what is gone. p_last: up to which row; null: no end.
create function novita.lease_2(p_me bigint, p_batch int, p_most int, p_after bigint, p_last bigint)
returns setof bigint language plpgsql as $$
begin
  perform 1 from novita.worker where id = p_me and ended is null for share;
  if not found then raise exception 'novita: this worker was taken for dead' using errcode = 'NV002'; end if;
  return query
    with f as materialized (                                     -- else a plan may ask once a row, and take more
      select serial from novita.course where batch = p_batch and free and serial > p_after
        and (p_last is null or serial <= p_last) and (aside is null or aside < p_me)
      order by serial limit p_most for update skip locked)
    update novita.course c set owner = p_me, free = false, moves = c.moves + 1 from f
    where c.batch = p_batch and c.serial = f.serial returning c.serial;
end $$;

-- Whether nothing is left for a worker: no row that it could take, and none that another may give back.
create function novita.complete_1(p_me bigint, p_batch int) returns bool language sql stable as $$
  select not exists (
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
create function novita.free_2(p_owner bigint) returns bigint language sql as $$
  with given as (
    update novita.course set owner = null, free = state in ('planned', 'submitted', 'succeeded'), moves = moves + 1
    where owner = p_owner and "window" is null and state <> 'announced' returning 1)
  select count(*) from given
$$;

-- Take rows that have ended, to go on with them all the same.
create function novita.claim_1(p_me bigint, p_batch int, p_serial bigint[], p_state text[]) returns setof bigint
language plpgsql as $$
begin
  perform 1 from novita.worker where id = p_me and ended is null for share;
  if not found then raise exception 'novita: this worker was taken for dead' using errcode = 'NV002'; end if;
  return query
    update novita.course c set owner = p_me, free = false, moves = c.moves + 1
    from unnest(p_serial, p_state) u(serial, state)
    where c.batch = p_batch and c.serial = u.serial and c.state = u.state and c.owner is null returning c.serial;
end $$;

create view novita.at_work as                            -- who works, since when, and what each has
  select b.name batch, w.id, w.name, w.version, w.started, w.alive_until > clock_timestamp() is_alive, w.alive_until,
    count(c.serial) had, count(*) filter (where c.state = 'announced') sending,
    count(*) filter (where c.state = 'submitted') watching
  from novita.worker w join novita.batch b on b.id = w.batch left join novita.course c on c.owner = w.id
  where w.ended is null or not w.buried
  group by b.name, w.id;
"""
