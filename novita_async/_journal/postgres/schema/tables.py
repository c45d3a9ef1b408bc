"""The tables of shared journals.

**Two tables a purchase.** `request` says what is asked for and is written once; `course` says what has become
of it, is narrow, and is rewritten in place at each step: no index stands on its state.
"""

from typing import Final

from novita_async._journal.postgres.schema.columns import DEFINITIONS

TABLES: Final = f"""
create schema if not exists novita;

create table novita.meta (
  version       int not null,
  oldest_reader int not null,                            -- the oldest release's version that may work with these tables
  timeline      text,                                    -- of the server's log: another one after a failover
  quiet_until   timestamptz not null default '-infinity' -- nobody buys before
);
insert into novita.meta (version, oldest_reader) values (0, 1);

create table novita.batch (
  id        int generated always as identity primary key,
  name      text not null unique,
  run       int not null default 0,
  holder    bigint,                                      -- the worker that has the batch to itself
  note      text,                                        -- JSON: where results go, what they are called, prices
  piece     int not null default 0,                      -- the latest piece of a plan that was made ...
  piece_run int not null default 0                       -- ... by the run that had the batch to itself
) with (fillfactor = 50);

create table novita.budget (                             -- one a batch
  batch    int primary key references novita.batch,
  "limit"  numeric not null,
  spent    numeric not null default 0,
  reserved numeric not null default 0,
  price    numeric                                       -- of an image, for processes that were told none
) with (fillfactor = 50);

create table novita.worker (                             -- a process at work: an incarnation, never used twice
  id          bigint generated always as identity primary key,
  batch       int not null references novita.batch,
  name        text not null,
  version     text not null,
  started     timestamptz not null default clock_timestamp(),
  alive_since timestamptz not null default clock_timestamp(),   -- without a gap
  alive_until timestamptz not null,
  lease       interval not null,                         -- how long a sign of life is good for
  alone       bool not null,                             -- it had the batch to itself
  ended       timestamptz,
  buried      bool not null default false                -- ended, and all that it had is given away
) with (fillfactor = 50);
create index worker_unburied on novita.worker (id) where not buried;

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
alter table novita.request alter batch set statistics 0;   -- a new batch is none of the values that statistics know: then
                                                         -- the planner took its rows for a single one, and read all

create table novita.course (
  batch    int    not null,
  serial   bigint not null,
  run      int    not null,
  position int    not null,
  moves    int    not null default 0,                    -- counts every change: the version of the fence
  owner    bigint,                                       -- the worker that has leased it
  free     bool   not null default true,                 -- something is to be done, and nobody has it
  aside    bigint,                                       -- the latest worker that could not bring it to an end
  single   bool,                                         -- of no run: somebody waits for it alone
  "window" int,                                          -- where a place is taken that is not settled yet
  slot     text,                                         -- what the pacer said of that place
  cost     numeric,                                      -- money that is reserved for it
  paid     numeric,                                      -- money; null: not told
  {DEFINITIONS},
  primary key (batch, serial)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
alter table novita.course alter batch set statistics 0;  -- as above
create index course_free  on novita.course (batch, serial) where free;
create index course_owner on novita.course (owner) where owner is not null;
create index course_token on novita.course (batch, token) where token is not null;

create table novita."window" (                           -- one for each account and endpoint
  id         int generated always as identity primary key,
  account    text not null,
  endpoint   text not null,
  quota      int,                                        -- images in a window; null: not known
  held       int not null default 0,                     -- images that are announced and not let go
  version    bigint not null default 0,
  state      text,                                       -- of the pacer, while the quota is not known
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

create table novita.account (
  label       text primary key,
  cause       text,                                      -- why it is closed; null: it is not
  error       text,                                      -- why it was taken out; null: it was not
  trips       int    not null default 0,                 -- in a row
  opened_at   float8 not null default 0,
  tripped_at  float8 not null default 0,
  gate_until  float8 not null default 0,
  out_until   float8 not null default 0,
  quota       int,                                       -- images in a window, said for all; null: as processes were told
  generation  bigint not null default 0,                 -- how often that was said
  prober      bigint,                                    -- the process that sent the latest probe
  probe_until float8 not null default 0                  -- until then its answer is awaited
) with (fillfactor = 50);

create table novita.place (                              -- on their way, without a row
  worker   bigint not null,
  "window" int    not null,
  images   int    not null,
  call     bigint not null default 0,                    -- the latest that was carried out: told again it counts once
  granted  int[],                                        -- what that one has granted
  primary key (worker, "window")
) with (fillfactor = 50);

create table novita.usage (                              -- who uses a window with the quota that it has
  "window" int    not null,
  worker   bigint not null,
  primary key ("window", worker)
);

create unlogged table novita.planning (                  -- those who plan while others work
  session int not null,
  batch   int not null,
  piece   int not null,
  worker  bigint not null,
  primary key (batch, session)
);
create unlogged table novita.asked (                     -- how often a session has asked for the same
  batch   int   not null,
  session int   not null,
  key     bytea not null,
  n       int   not null,
  primary key (batch, session, key)
) with (fillfactor = 70);
"""  # noqa: S608 - constant
"""Text that makes them."""
