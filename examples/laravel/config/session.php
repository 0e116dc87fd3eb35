<?php

return [
    'driver' => 'file',
    'files' => storage_path('sessions'),
    'lifetime' => 120,
    'expire_on_close' => false,
    'encrypt' => false,
    'lottery' => [2, 100],
    'cookie' => 'orders_session',
    'path' => '/',
    'domain' => null,
    'secure' => env('APP_ENV') === 'production',
    'http_only' => true,
    'same_site' => 'lax',
];
