-- The retail company's database. It trusts whoever writes to it: nothing says what a price may be.

CREATE TABLE products (
    product_id integer PRIMARY KEY,
    product_name text,
    category text,
    price numeric,
    stock_available integer
);

CREATE TABLE transactions (
    transaction_id integer PRIMARY KEY,
    customer_id integer,
    product_id integer REFERENCES products,
    quantity integer,
    transaction_date date,
    total_amount numeric
);
