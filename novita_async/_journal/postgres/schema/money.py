"""Functions of a batch's budget."""

from typing import Final

MONEY: Final = """
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
"""
"""Text that makes them."""
