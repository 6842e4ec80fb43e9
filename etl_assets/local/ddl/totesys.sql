-- The ToteSys OLTP database, as its owner declares it. Each table stands after those that it refers to.

CREATE DOMAIN email AS text CHECK (value ~ '^[^@[:space:]]+@[^@[:space:]]+$');

CREATE TABLE address (
    address_id integer PRIMARY KEY,
    address_line_1 text NOT NULL,
    address_line_2 text,
    district text,
    city text NOT NULL,
    postal_code text NOT NULL,
    country text NOT NULL,
    phone text NOT NULL,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);

CREATE TABLE counterparty (
    counterparty_id integer PRIMARY KEY,
    counterparty_legal_name text NOT NULL,
    legal_address_id integer NOT NULL REFERENCES address,
    commercial_contact text,
    delivery_contact text,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);

CREATE TABLE currency (
    currency_id integer PRIMARY KEY,
    currency_code varchar(3) NOT NULL,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);

CREATE TABLE department (
    department_id integer PRIMARY KEY,
    department_name text NOT NULL,
    location text,
    manager text,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);

CREATE TABLE staff (
    staff_id integer PRIMARY KEY,
    first_name text NOT NULL,
    last_name text NOT NULL,
    department_id integer NOT NULL REFERENCES department,
    email_address email NOT NULL,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);

CREATE TABLE design (
    design_id integer PRIMARY KEY,
    created_at timestamp(3) without time zone NOT NULL,
    design_name text NOT NULL,
    file_location text NOT NULL,
    file_name text NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);

CREATE TABLE sales_order (
    sales_order_id integer PRIMARY KEY,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL,
    design_id integer NOT NULL REFERENCES design,
    staff_id integer NOT NULL REFERENCES staff,
    counterparty_id integer NOT NULL REFERENCES counterparty,
    units_sold integer NOT NULL,
    unit_price numeric NOT NULL,
    currency_id integer NOT NULL REFERENCES currency,
    agreed_delivery_date text NOT NULL,
    agreed_payment_date text NOT NULL,
    agreed_delivery_location_id integer NOT NULL REFERENCES address
);
CREATE INDEX ON sales_order (last_updated);

CREATE TABLE purchase_order (
    purchase_order_id integer PRIMARY KEY,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL,
    staff_id integer NOT NULL REFERENCES staff,
    counterparty_id integer NOT NULL REFERENCES counterparty,
    item_code text NOT NULL,
    item_quantity integer NOT NULL,
    item_unit_price numeric NOT NULL,
    currency_id integer NOT NULL REFERENCES currency,
    agreed_delivery_date text NOT NULL,
    agreed_payment_date text NOT NULL,
    agreed_delivery_location_id integer NOT NULL REFERENCES address
);
CREATE INDEX ON purchase_order (last_updated);

CREATE TABLE payment_type (
    payment_type_id integer PRIMARY KEY,
    payment_type_name text NOT NULL,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);

CREATE TABLE transaction (
    transaction_id integer PRIMARY KEY,
    transaction_type text NOT NULL,
    sales_order_id integer REFERENCES sales_order,
    purchase_order_id integer REFERENCES purchase_order,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL
);
CREATE INDEX ON transaction (last_updated);

CREATE TABLE payment (
    payment_id integer PRIMARY KEY,
    created_at timestamp(3) without time zone NOT NULL,
    last_updated timestamp(3) without time zone NOT NULL,
    transaction_id integer NOT NULL REFERENCES transaction,
    counterparty_id integer NOT NULL REFERENCES counterparty,
    payment_amount numeric NOT NULL,
    currency_id integer NOT NULL REFERENCES currency,
    payment_type_id integer NOT NULL REFERENCES payment_type,
    paid boolean NOT NULL,
    payment_date text NOT NULL,
    company_ac_number integer NOT NULL,
    counterparty_ac_number integer NOT NULL
);
CREATE INDEX ON payment (last_updated);
