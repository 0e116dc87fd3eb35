<?php

return [
    'url' => env('FANFARE_URL'),
    'jwt_secret' => env('FANFARE_JWT_SECRET'),
    'publish_token' => env('FANFARE_PUBLISH_TOKEN'),
    'token_seconds' => (int) env('TOKEN_SECONDS', 600),
];
